"COCO files: every accident of an annotation file that somebody's tool has produced, and what becomes of it."
import copy, json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from learndet.data.annotations import DatasetError
from learndet.data.coco import CocoDataset, read_json

BASE = dict(
    images=[dict(id=i, file_name=f'{i}.jpg', width=100, height=80) for i in (5, 2, 9)],
    categories=[dict(id=i, name=n) for i, n in ((3, 'dog'), (1, 'cat'), (17, 'bird'))],
    annotations=[dict(id=n, image_id=(5, 2)[n % 2], category_id=(3, 1, 17)[n % 3], bbox=[n + 1, n + 2, 20, 10], area=200., iscrowd=0)
                 for n in range(1, 41)])


@pytest.fixture
def load(tmp_path):
    def load(change=None, raw=None, **kwargs):
        data = copy.deepcopy(BASE)
        if change: change(data, data['annotations'])
        path = tmp_path / 'train.json'
        path.write_bytes(raw) if raw is not None else path.write_text(json.dumps(data))
        return CocoDataset('train.json', data_root=str(tmp_path), **kwargs)
    return load


def sum_is_right(dataset):
    c = dataset.report.counts()
    assert c['into'] == c['kept'] + c['fixed'] + c['dropped']
    assert len(dataset.table) == c['kept'] + c['fixed']
    assert f"{c['into']} annotations in = {c['kept']} kept + {c['fixed']} fixed" in dataset.report.line()


def set_box(*bbox): return lambda d, a: a[6].update(bbox=list(bbox))


ERRORS = {      # row of the list of bad inputs: (what is done to the file, fragments of the message)
    3: (lambda d, a: [a[i].update(category_id=99) for i in (4, 6)], ['category id is not in the file (2)', 'annotation id 5', '99']),
    5: (lambda d, a: d['categories'][0].update(name='cat'), ["class name 'cat'", '[3, 1]']),
    12: (lambda d, a: d['images'][1].update(id=5), ['image id used twice', '5.jpg', '2.jpg']),
    '14 many': (lambda d, a: [x.update(image_id=77) for x in a[:6]], ['image is not in the file (6)', 'annotation id 1']),
    '21 none': (lambda d, a: d.pop('annotations'), ["no 'annotations'", 'test_mode=True']),
    22: (lambda d, a: a.clear(), ["'annotations' is empty"]),
    23: (lambda d, a: a[3].update(bbox=[1, 2, float('nan'), 4]), ['NaN', 'annotation id 4', '.jpg']),
    38: (lambda d, a: a[3].update(bbox=[1, 2, float('inf'), 4]), ['NaN or infinite', 'inf']),
    'three numbers': (set_box(1, 2, 3), ['bbox is not four numbers', 'annotation id 7', '[1, 2, 3]']),
    'a word': (set_box('x', 2, 3, 4), ['bbox is not four numbers']),
    'no bbox': (lambda d, a: a[6].pop('bbox'), ["annotations without 'bbox'", 'annotations[6]']),
    'no image id': (lambda d, a: d['images'][1].pop('id'), ["images without 'id'", 'images[1]']),
    'no name': (lambda d, a: d['categories'][1].pop('name'), ["categories without 'name'", 'categories[1]']),
    'no categories': (lambda d, a: d.pop('categories'), ["no 'categories'"]),
    'no size': (lambda d, a: d['images'][0].pop('width'), ['no width and height', '5.jpg (image id 5)']),
    41: (lambda d, a: [x.update(bbox=[.1, .1, .5, .5]) for x in a], ['all coordinates are at most 1', 'multiply']),
    57: (lambda d, a: a[0].update(segmentation=dict(counts=[10], size=[100, 80])), ['run lengths of another size']),
    76: (lambda d, a: d['images'][0].update(file_name='../../etc/x'), ['leaves the folder', '../../etc/x', 'allow_outside=True']),
    '76 absolute': (lambda d, a: d['images'][0].update(file_name='/etc/x'), ['leaves the folder']),
}


@pytest.mark.parametrize('row', ERRORS)
def test_what_only_a_person_can_mend_stops_before_training(load, row):
    change, fragments = ERRORS[row]
    with pytest.raises(DatasetError) as e: load(change)
    for fragment in ['train.json', *fragments]: assert fragment in str(e.value)


MENDED = {      # row: (change, verdict, what, how many, in = (kept, fixed, dropped))
    2: (lambda d, a: (d['categories'][1].update(id=0), [x.update(category_id=0) for x in a if x['category_id'] == 1]), None, '', 0, (40, 0, 0)),
    10: (lambda d, a: [a[i].update(id=1) for i in (1, 2)], 'F', 'annotation id used twice', 2, (38, 2, 0)),
    11: (lambda d, a: a[0].update(id=0), None, '', 0, (40, 0, 0)),
    13: (lambda d, a: d['images'][1].update(file_name='5.jpg'), 'W', 'the same picture under several ids', 1, (40, 0, 0)),
    '14 few': (lambda d, a: a[0].update(image_id=77), 'D', 'image is not in the file', 1, (39, 0, 1)),
    15: (lambda d, a: [x.update(image_id=str(x['image_id'])) for x in a], 'F', 'id written as text on one side', 40, (0, 40, 0)),
    16: (lambda d, a: ([i.update(id=f'u-{i["id"]}') for i in d['images']], [x.update(image_id=f'u-{x["image_id"]}') for x in a]),
         None, '', 0, (40, 0, 0)),
    17: (lambda d, a: (a[0].pop('iscrowd'), a[1].pop('area')), 'F', "no usable 'area'", 1, (38, 2, 0)),
    '18 zero': (lambda d, a: a[0].update(area=0), 'F', 'area is zero or negative', 1, (39, 1, 0)),
    '18 NaN': (lambda d, a: a[0].update(area=float('nan')), 'F', "no usable 'area'", 1, (39, 1, 0)),
    '18 ten times': (lambda d, a: a[0].update(area=5000), 'W', 'area differs tenfold from its box', 1, (40, 0, 0)),
    24: (lambda d, a: a[0].update(bbox=['10', '20', '30', 5]), 'F', 'bbox written as text', 1, (39, 1, 0)),
    32: (set_box(50, 40, -20, -10), 'F', 'corners swapped', 1, (39, 1, 0)),
    33: (set_box(50, 40, 0, 10), 'D', 'zero width or height', 1, (39, 0, 1)),
    34: (set_box(50, 40, .5, 10), 'W', 'side shorter than a pixel', 1, (40, 0, 0)),
    36: (set_box(90, 70, 20, 20), 'F', 'partly outside the image', 1, (39, 1, 0)),
    37: (set_box(120, 10, 20, 20), 'D', 'outside the image', 1, (39, 0, 1)),
    49: (lambda d, a: a[1].update({**a[7], 'id': 2}), 'W', 'exact duplicate of another box', 1, (40, 0, 0)),
    4: (lambda d, a: d['categories'].append(dict(id=50, name='cow')), 'W', 'category without annotations', 1, (40, 0, 0)),
    9: (lambda d, a: (d['categories'].append(dict(id=0, name='pets')), d['categories'][0].update(supercategory='pets')),
        'W', 'category is only the name of a group', 1, (40, 0, 0)),
    56: (lambda d, a: [x.update(segmentation=[[0, 0, 9, 9]] if i else [[0, 0, 9, 0, 9, 9]]) for i, x in enumerate(a)],
         'W', 'no usable outline', 39, (40, 0, 0)),
    75: (lambda d, a: d['images'][0].update(file_name='day\\5.jpg'), 'F', 'file name with Windows separators', 1, (40, 0, 0)),
    39: (lambda d, a: [x.update(bbox=[50 + i, 40 + i % 20, 60 + i, 79]) for i, x in enumerate(a)], 'W', 'bbox looks like xyxy', 40, None),
}


@pytest.mark.parametrize('row', MENDED)
def test_what_can_be_mended_is_mended_and_counted(load, row):
    change, verdict, what, count, books = MENDED[row]
    dataset = load(change)
    sum_is_right(dataset)
    if books: assert tuple(dataset.report.counts().values())[1:] == books
    found = [f for f in dataset.report.findings if f.what == what]
    if verdict: assert [(f.verdict, f.count) for f in found] == [(verdict, count)]
    else: assert not dataset.report.findings
    if verdict in ('F', 'D', 'W'):      # strict: the same is an error
        with pytest.raises(DatasetError): load(change, strict=True)


def test_the_file_is_never_written(load, tmp_path):
    load(set_box(50, 40, -20, -10))
    before = (tmp_path / 'train.json').read_bytes()
    CocoDataset('train.json', data_root=str(tmp_path))
    assert (tmp_path / 'train.json').read_bytes() == before and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize('raw, fragments', [
    (b'', ['is empty (0 bytes)']), (b'{"images": [', ['is not json', 'cut off']), (b'\xff\xfe\x00\x00\x00', ['train.json']),
    (b'caf\xe9', ['is not utf-8 text: byte 3 is 0xe9']), (b'[1, 2]', ['not a COCO file but a list']),
    (b'{"shapes": [], "imagePath": ""}', ['labelme']), (b'<annotations>', ['CVAT']), (b'0 0.5 0.5 0.1 0.2\n', ['YOLO']),
    (b'{"metainfo": {}, "data_list": []}', ['MiddleDataset'])])
def test_other_files_are_named(load, raw, fragments):
    with pytest.raises(DatasetError) as e: load(raw=raw)
    for fragment in fragments: assert fragment in str(e.value)


def test_missing_file_names_the_nearest(tmp_path):
    (tmp_path / 'annotations').mkdir(); (tmp_path / 'annotations' / 'instances_train.json').touch()
    with pytest.raises(DatasetError, match='instances_train.json'): CocoDataset('annotations/instance_train.json', data_root=str(tmp_path))
    with pytest.raises(DatasetError, match='is a folder'): CocoDataset('annotations', data_root=str(tmp_path))


def test_byte_order_mark_is_read_and_noted(load):
    dataset = load(raw=b'\xef\xbb\xbf' + json.dumps(BASE).encode())
    assert len(dataset.table) == 40 and 'BOM found' in str(dataset.report)


@pytest.mark.parametrize('ids', [(0, 1, 2), (1, 2, 3), (90, 5, 41), (17, 3, 1), ('d', 'c', 'b')])
def test_labels_do_not_depend_on_ids(load, ids):
    def change(d, a):
        new = dict(zip((3, 1, 17), ids))
        for c in d['categories']: c['id'] = new[c['id']]
        for x in a: x['category_id'] = new[x['category_id']]
    assert (load(change).table.labels == load().table.labels).all()
    assert load(change).classes.source_ids == ids


def test_class_order_of_the_file_does_not_matter(load):
    wanted = dict(classes=('cat', 'dog', 'bird'))
    a, b = load(metainfo=wanted), load(lambda d, _: d['categories'].reverse(), metainfo=wanted)
    assert (a.table.labels == b.table.labels).all() and a.classes.names == b.classes.names == wanted['classes']
    assert a.classes.source_ids == b.classes.source_ids == (1, 3, 17)


def test_typo_says_what_would_be_lost(load):
    with pytest.raises(ValueError) as e: load(metainfo=dict(classes=('cat', 'dgo', 'bird')))
    for fragment in ("'dgo'", "did you mean 'dog'?", "('dog', 'cat', 'bird')", '13 boxes'): assert fragment in str(e.value)
    with pytest.raises(TypeError, match=r"write \('cat',\)"): load(metainfo=dict(classes='cat'))


def test_subset_and_filters(load):
    birds = dict(metainfo=dict(classes=('bird',)))
    assert len(load(**birds)) == 3 and set(load(**birds).table.labels.tolist()) == {0}
    assert len(load(**birds, filter_cfg=dict(filter_empty_gt=True))) == 2
    assert len(load(filter_cfg=dict(min_size=90))) == 0
    scored = load(test_mode=True, filter_cfg=dict(filter_empty_gt=True, min_size=90))
    assert len(scored) == 3
    for d in (load(**birds), load(filter_cfg=dict(min_size=90)), load(indices=[2]), load().subset([0]), scored): sum_is_right(d)


def test_images_without_objects_are_kept_and_said(load):
    assert len(load()) == 3 and '(1 empty)' in load().report.line()


def test_scored_boxes_are_the_files_own(load):
    box = set_box(90, 70, 20, 20)
    assert (load(box).table.bboxes[:, 2].max(), load(box, test_mode=True).ground_truth().bboxes[:, 2].max()) == (100, 110)


def test_sizes_come_from_the_picture(load, tmp_path):
    exif = Image.Exif(); exif[274] = 8
    Image.new('RGB', (100, 60)).save(tmp_path / '5.jpg', exif=exif)
    dataset = load(lambda d, a: [d['images'][0].pop(k) for k in ('width', 'height')])
    assert dataset.shapes[0].tolist() == [100, 60]


def test_an_absolute_name_inside_the_folder_is_fine(load, tmp_path):
    inside = lambda d, a: d['images'][0].update(file_name=str(tmp_path / 'img' / '5.jpg'))
    assert load(inside, data_prefix=dict(img='img')).get_data_info(0)['img_path'] == str(tmp_path / 'img' / '5.jpg')
    assert load(ERRORS[76][0], allow_outside=True).get_data_info(0)['img_path'].endswith('etc/x')


def test_crowd_becomes_ignored(load):
    dataset = load(lambda d, a: (a[0].update(iscrowd=1), a[1].update(ignore=1)))
    assert dataset.ground_truth().ignore.sum() == 2 and sum(dataset.class_counts().values()) == 38


def test_environment_moves_a_relative_root(load, tmp_path, monkeypatch):
    load()
    (tmp_path / 'coco').mkdir(); (tmp_path / 'train.json').rename(tmp_path / 'coco' / 'train.json')
    monkeypatch.setenv('MMDET_DATASETS', str(tmp_path))
    assert len(CocoDataset('train.json', data_root='data/coco/')) == 3
    monkeypatch.setenv('MMDET_DATASETS', str(tmp_path / 'coco'))
    assert len(CocoDataset('train.json', data_root='data/coco/')) == 3


def test_agrees_with_pycocotools(load, tmp_path, capsys):
    from pycocotools.coco import COCO
    dataset, coco = load(), COCO(str(tmp_path / 'train.json'))
    for i, img_id in enumerate(dataset.ground_truth().img_ids):
        theirs = coco.loadAnns(coco.getAnnIds(imgIds=[img_id]))
        ours = dataset.get_data_info(i)['instances']
        assert [[*t['bbox'][:2], t['bbox'][0] + t['bbox'][2], t['bbox'][1] + t['bbox'][3]] for t in theirs] == [o['bbox'] for o in ours]
        assert [coco.loadCats([t['category_id']])[0]['name'] for t in theirs] == [dataset.classes[o['bbox_label']] for o in ours]


def test_a_hundred_thousand_annotations_stay_columns(tmp_path):
    N, I = 20_000, 4_000
    rng = np.random.default_rng(0)
    xywh = rng.uniform(1, 90, (N, 4)).round(2).tolist()
    data = {**BASE, 'images': [dict(id=i, file_name=f'{i}.jpg', width=200, height=200) for i in range(I)],
            'annotations': [dict(id=n, image_id=n % I, category_id=1, bbox=b, area=1000., iscrowd=0) for n, b in enumerate(xywh)]}
    (tmp_path / 'big.json').write_text(json.dumps(data))
    dataset = CocoDataset('big.json', data_root=str(tmp_path))
    lists = [k for k, v in vars(dataset.table).items() if isinstance(v, (list, dict))]
    assert not lists and len(dataset.get_data_info(7)['instances']) == N // I


def test_a_perfect_file_from_json_of_any_kind(tmp_path):
    Path(tmp_path, 'a.json').write_text(json.dumps(BASE), encoding='utf-16')
    assert read_json(tmp_path / 'a.json') == BASE


def test_a_list_of_classes_is_read_as_a_tuple_and_said(load):
    dataset = load(metainfo=dict(classes=['cat', 'dog', 'bird']))
    assert dataset.metainfo['classes'] == ('cat', 'dog', 'bird') and 'classes is a list' in dataset.report.text()
