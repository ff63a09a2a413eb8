"Pascal VOC, on small files and, where they are, on the blood cells of the shared folder."
import os
from pathlib import Path

import numpy as np
import pytest

from learndet.data.annotations import DatasetError
from learndet.data.voc import VOCDataset

OBJECT = '<object><name>{name}</name>{extra}<bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>'


def xml(*boxes, size=(80, 100), extra=''):
    objects = ''.join(OBJECT.format(name=n, extra=extra, x1=b[0], y1=b[1], x2=b[2], y2=b[3]) for n, b in boxes)
    dims = f'<size><width>{size[1]}</width><height>{size[0]}</height><depth>3</depth></size>' if size else ''
    return f'<annotation><filename>whatever.png</filename>{dims}{objects}</annotation>'


@pytest.fixture
def voc(tmp_path):
    for d in ('Annotations', 'ImageSets/Main', 'JPEGImages'): (tmp_path / d).mkdir(parents=True)
    def write(**files):
        for name, text in files.items(): (tmp_path / 'Annotations' / f'{name}.xml').write_text(text)
        (tmp_path / 'ImageSets' / 'Main' / 'train.txt').write_text('\n'.join(files) + '\n')
        return tmp_path
    return write


def test_split_list_gives_pictures_and_boxes(voc):
    root = voc(b=xml(('dog', (1, 1, 40, 60))), a=xml(('cat', (10, 20, 30.5, 40)), ('dog', (5, 5, 9, 9))))
    for name in ('a.png', 'b.jpg'): (root / 'JPEGImages' / name).touch()
    dataset = VOCDataset('ImageSets/Main/train.txt', data_root=str(root))
    assert dataset.table.file_names.tolist() == ['b.jpg', 'a.png'] and dataset.classes.names == ('cat', 'dog')
    assert dataset.table.bboxes.tolist() == [[0, 0, 39, 59], [9, 19, 29.5, 39], [4, 4, 8, 8]]
    assert dataset.table.img_ids.tolist() == ['b', 'a'] and dataset.report.line().startswith('train.txt: 3 annotations in = 3 kept')


def test_mmdetections_spelling_finds_the_same(voc):
    root = voc(a=xml(('cat', (1, 1, 9, 9))))
    root = root.rename(root.parent / 'VOC2007')
    ours = VOCDataset(str(root / 'ImageSets/Main/train.txt'))
    theirs = VOCDataset('VOC2007/ImageSets/Main/train.txt', data_root=str(root.parent), data_prefix=dict(sub_data_root='VOC2007/'))
    folder = VOCDataset(str(root / 'Annotations'))
    for d in (theirs, folder): assert d.get_data_info(0) == ours.get_data_info(0)


@pytest.mark.parametrize('text, fragment', [
    (xml(('cat', (1, 1, 'nine', 9))), 'a.xml, object 0'), (xml(('cat', (1, 1, 9, 9)))[:60], 'a.xml is not xml'),
    (xml(('cat', (1, 1, 9, 9)), size=None), 'no width and height'), (xml(('cat', ('nan', 1, 9, 9))), 'NaN'),
    ('<annotation><object><name>x</name></object></annotation>', 'a.xml, object 0')])
def test_bad_files_are_named(voc, text, fragment):
    with pytest.raises(DatasetError, match='train.txt|a.xml') as e: VOCDataset('ImageSets/Main/train.txt', data_root=str(voc(a=text)))
    assert fragment in str(e.value)


def test_missing_xml_is_an_error_in_training_and_an_empty_picture_in_a_test(voc):
    root = voc(a=xml(('cat', (1, 1, 9, 9))), b=xml(('cat', (1, 1, 9, 9))))
    (root / 'Annotations' / 'b.xml').unlink()
    with pytest.raises(DatasetError, match='b.xml does not exist'): VOCDataset('ImageSets/Main/train.txt', data_root=str(root))
    from PIL import Image
    Image.new('RGB', (30, 20)).save(root / 'JPEGImages' / 'b.jpg')
    dataset = VOCDataset('ImageSets/Main/train.txt', data_root=str(root), test_mode=True)
    assert dataset.shapes.tolist() == [[80, 100], [20, 30]] and dataset.report.images_empty == 1


def test_difficult_and_small_boxes_are_ignored_not_dropped(voc):
    root = voc(a=xml(('cat', (1, 1, 60, 60)), extra='<difficult>1</difficult>'), b=xml(('cat', (1, 1, 20, 60)), ('cat', (1, 1, 60, 60))))
    dataset = VOCDataset('ImageSets/Main/train.txt', data_root=str(root), filter_cfg=dict(filter_empty_gt=True, min_size=32, bbox_min_size=32))
    assert dataset.table.ignore.tolist() == [True, True, False] and len(dataset) == 2
    assert dataset.report.counts() == dict(into=3, kept=2, fixed=1, dropped=0)


def test_a_class_met_in_one_split_only(voc):
    root = voc(a=xml(('cat', (1, 1, 9, 9))))
    assert VOCDataset('ImageSets/Main/train.txt', data_root=str(root), metainfo=dict(classes=('dog', 'cat'))).table.labels.tolist() == [1]
    with pytest.raises(ValueError, match="did you mean 'cat'"):
        VOCDataset('ImageSets/Main/train.txt', data_root=str(root), metainfo=dict(classes=('dog', 'Cats')))


def blood_cells():
    places = [Path(os.environ.get('LEARNDET_DATA', '')), Path(__file__).parents[2].parent / 'shared' / 'datasets']
    return next((p / 'bccd' for p in places if (p / 'bccd' / 'Annotations').is_dir()), None)


@pytest.mark.skipif(blood_cells() is None, reason='the blood-cell photographs are not here: set LEARNDET_DATA to the folder that holds bccd/')
def test_blood_cells():
    sets = {s: VOCDataset(f'ImageSets/Main/{s}.txt', data_root=str(blood_cells())) for s in ('train', 'val', 'test', 'trainval')}
    assert [len(d) for d in sets.values()] == [205, 87, 72, 292]
    assert {d.classes.names for d in sets.values()} == {('Platelets', 'RBC', 'WBC')}
    boxes = sum(np.array(list(sets[s].class_counts().values())) for s in ('trainval', 'test'))
    assert boxes.tolist() == [361, 4155 - 2, 372]
    report = sets['trainval'].report
    flat = next(f for f in report.findings if f.what == 'zero width or height')
    assert flat.verdict == 'D' and flat.count == 2
    assert ['BloodImage_00338.jpg' in w or 'BloodImage_00343.jpg' in w for w in flat.where] == [True, True]
    c = report.counts()
    assert c['dropped'] == 2 and c['into'] == c['kept'] + c['fixed'] + c['dropped'] == len(sets['trainval'].table) + 2
