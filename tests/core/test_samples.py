"The committed pictures are what the generator draws, and every difficulty is among them."
import json
import xml.etree.ElementTree as ET
import numpy as np
import pytest
from PIL import Image
from learndet.core import samples as S


@pytest.fixture(scope='module')
def drawn(tmp_path_factory): return S.write_samples(tmp_path_factory.mktemp('drawn'))


def files(folder): return sorted(str(f.relative_to(folder)) for f in folder.rglob('*') if f.is_file())


def test_the_committed_folder_is_what_the_generator_draws(drawn):
    kept = S.samples_dir()
    assert files(drawn) == files(kept)
    for name in files(kept):
        if name.endswith(('.jpg', '.png')):
            a, b = (np.asarray(Image.open(f / name).convert('RGB'), float) for f in (drawn, kept))
            assert a.shape == b.shape and abs(a - b).mean() < 1.5, name       # encoders differ a little between versions
        elif name.endswith(('.xml', '.txt', '.md')): assert (drawn / name).read_text() == (kept / name).read_text(), name


@pytest.mark.parametrize('split', ['train', 'val'])
def test_the_committed_annotations_are_what_the_generator_draws(drawn, split):
    a, b = (json.loads((f / f'{split}.json').read_text()) for f in (drawn, S.samples_dir()))
    assert a['images'] == b['images'] and a['categories'] == b['categories']
    for x, y in zip(a['annotations'], b['annotations'], strict=True):
        assert np.abs(np.subtract(x['bbox'], y['bbox'])).max() <= 1 and (x['category_id'], x['iscrowd']) == (y['category_id'], y['iscrowd'])


def test_the_folder_is_small(): assert sum(f.stat().st_size for f in S.samples_dir().rglob('*') if f.is_file()) < 400_000


def test_every_difficulty_is_there():
    coco = json.loads(S.coco_file('train').read_text())
    with_objects = {a['image_id'] for a in coco['annotations']}
    sides = np.array([a['bbox'][2:] for a in coco['annotations'] if not a['iscrowd']])
    assert len(coco['images']) == 12 and any(a['iscrowd'] for a in coco['annotations'])
    assert len(with_objects) == 11                                       # one picture has no object
    assert sides.min() <= 12 and sides.max() >= 110
    assert any(i['height'] > i['width'] for i in coco['images']) and {i['file_name'][-3:] for i in coco['images']} == {'jpg', 'png'}
    assert {a['category_id'] for a in coco['annotations']} == set(S.CATEGORY_IDS)
    assert len({a['id'] for a in coco['annotations']}) == len(coco['annotations'])


@pytest.mark.parametrize('split', ['train', 'val'])
def test_coco_and_voc_say_the_same(split):
    coco = json.loads(S.coco_file(split).read_text())
    names = {c['id']: c['name'] for c in coco['categories']}
    for img in coco['images']:
        root = ET.parse(S.samples_dir() / 'Annotations' / f"{img['file_name'][:-4]}.xml").getroot()
        assert (int(root.find('size/width').text), int(root.find('size/height').text)) == (img['width'], img['height'])
        mine = [a for a in coco['annotations'] if a['image_id'] == img['id']]
        for a, obj in zip(mine, root.findall('object'), strict=True):
            x, y, w, h = a['bbox']
            box = [int(obj.find(f'bndbox/{k}').text) for k in ('xmin', 'ymin', 'xmax', 'ymax')]
            assert box == [x + 1, y + 1, x + w, y + h] and obj.find('name').text == names[a['category_id']]
            assert int(obj.find('difficult').text) == a['iscrowd']
        assert Image.open(S.image_path(img['file_name'])).size == (img['width'], img['height'])


def test_masks_fit_boxes_and_polygons_fit_masks():
    coco_mask = pytest.importorskip('pycocotools.mask')
    coco = json.loads(S.coco_file('train').read_text())
    sizes = {i['id']: (i['height'], i['width']) for i in coco['images']}
    for a in coco['annotations']:
        rle = coco_mask.frPyObjects(a['segmentation'], *sizes[a['image_id']])
        mask = coco_mask.decode(coco_mask.merge(rle) if isinstance(rle, list) else rle)
        y, x = np.nonzero(mask)
        box = np.array([x.min(), y.min(), x.max() + 1 - x.min(), y.max() + 1 - y.min()])
        assert np.abs(box - a['bbox']).max() <= 1 and abs(int(mask.sum()) - a['area']) <= max(3, .06 * a['area'])


def test_scenes_are_seeded_and_disjoint():
    for seed in range(6):
        a, b = S.make_scene(seed, crowd=seed == 3), S.make_scene(seed, crowd=seed == 3)
        assert (a.img == b.img).all() and (a.bboxes == b.bboxes).all()
        assert a.masks.sum(0).max() <= 1 and len(a.bboxes) == len(a.labels) == len(a.masks) == len(a.polygons) == len(a.crowd)
        assert (a.bboxes >= 0).all() and (a.bboxes[:, 2:] <= (256, 192)).all()


def test_the_empty_scene():
    scene = S.make_scene(0, n=0)
    assert scene.bboxes.shape == (0, 4) and scene.masks.shape == (0, 192, 256) and S.coco_annotations(scene, 1, 1) == []


def test_a_bigger_set_begins_with_the_smaller_one(tmp_path):
    big, small = S.write_samples(tmp_path / 'big', 3, 1), S.write_samples(tmp_path / 'small', 2, 1)
    assert json.loads((big / 'train.json').read_text())['images'][:2] == json.loads((small / 'train.json').read_text())['images']
    other = S.write_samples(tmp_path / 'other', 2, 1, seed=1)
    assert (other / 'train.json').read_text() != (small / 'train.json').read_text()


def test_without_a_checkout_they_are_drawn_once_into_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    monkeypatch.setattr(S.learndet, '__file__', str(tmp_path / 'site-packages' / 'learndet' / '__init__.py'))
    monkeypatch.setattr(S, 'write_samples', lambda folder: (S.Path(folder) / 'train.json').write_text('{}') and S.Path(folder))
    first = S.samples_dir()
    monkeypatch.setattr(S, 'write_samples', lambda folder: pytest.fail('drawn twice'))
    assert S.samples_dir() == first and (first / 'train.json').exists() and len(list(first.parent.iterdir())) == 1


def test_photographs():
    pytest.importorskip('skimage')
    for name in S.PHOTOS:
        p = S.photo(name)
        H, W = p.img.shape[:2]
        assert p.img.dtype == np.uint8 and (p.bboxes[:, 2:] <= (W, H)).all() and len(p.labels) == len(p.bboxes) and max(p.labels) < len(p.classes)
    with pytest.raises(KeyError, match='there are astronaut'): S.photo('dog')


def test_outlines_and_run_lengths_are_mixed():
    coco = json.loads(S.coco_file('train').read_text())
    kinds = {(type(a['segmentation']).__name__, a['iscrowd']) for a in coco['annotations']}
    assert kinds == {('list', 0), ('dict', 1), ('dict', 0)}              # the last: an object with a hole in it
