"`learndet check`: what is wrong with a dataset, said before a training and without one; the rows 4a, 4c and 4d of the list of user needs."
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from learndet.core.samples import samples_dir
from learndet.data.coco import CocoDataset
from learndet.data.transforms.loading import LoadImageFromFile
from learndet.data.wrappers import ConcatDataset
from learndet.tools.check import check
from learndet.tools.cli import main


@pytest.fixture
def data(tmp_path, monkeypatch):
    "A copy of the sample pictures, in which nothing may be changed by a check."
    shutil.copytree(samples_dir(), tmp_path / 'data')
    monkeypatch.chdir(tmp_path)
    files = {}
    def edit(change=lambda d: None, name='train.json'):
        path = tmp_path / 'data' / name
        found = json.loads(path.read_text())
        change(found)
        path.write_text(json.dumps(found))
        files.clear(); files.update({p: p.read_bytes() for p in (tmp_path / 'data').rglob('*') if p.is_file()})
        return 'data/train.json'
    edit()
    yield edit
    assert {p: p.read_bytes() for p in (tmp_path / 'data').rglob('*') if p.is_file()} == files


PLANTED = {     # place: (what is written there, what is found, verdict)
    0: (dict(bbox=[30, 40, -20, -10]), 'corners swapped', 'F'), 1: (dict(bbox=[5, 5, 0, 9]), 'zero width or height', 'D'),
    2: (dict(bbox=[float('nan'), 5, 9, 9]), 'coordinate is NaN or infinite', 'E'), 3: (dict(category_id=77), 'category id is not in the file', 'E'),
    4: (dict(bbox=[5, 5, 9]), 'bbox is not four numbers', 'E'), 5: (dict(bbox=['5', '5', '9', '9']), 'bbox written as text', 'F'),
    6: (dict(image_id=999), 'image is not in the file', 'D'), 7: (dict(area=-1), 'area is zero or negative', 'F'),
    8: (dict(bbox=[9000, 5, 9, 9]), 'outside the image', 'D'), 9: (dict(bbox=[5, 5, .5, 9]), 'side shorter than a pixel', 'W'),
    10: (dict(bbox=[5, 5, 9000, 9]), 'partly outside the image', 'F'), 11: (dict(id=1), 'annotation id used twice', 'F'),
    12: (dict(segmentation=[[1, 2]]), 'no usable outline', 'W'), 13: (dict(segmentation=dict(size=[1, 1], counts=[1])), 'run lengths of another size than the image', 'E')}


def plant(d):
    for a in d['annotations']: a['segmentation'] = [[1, 1, 5, 1, 5, 5]]
    for n, (values, _, _) in PLANTED.items(): d['annotations'][n].update(values)
    d['images'][1]['file_name'] = '../../etc/x.jpg'


def test_4a_every_planted_fault_is_found_in_one_reading(data, capsys):
    ids = {n: a['id'] for n, a in enumerate(json.loads(Path('data/train.json').read_text())['annotations'])}
    assert main(['check', data(plant), '--img-prefix', 'data/JPEGImages', '--limit', '99', '--out', 'found.json']) == 1
    said, findings = capsys.readouterr().out, json.loads(Path('found.json').read_text())['datasets'][0]['findings']
    verdicts = dict(E='error', F='fixed', D='dropped', W='warning')
    for n, (values, what, verdict) in PLANTED.items():
        found = next(f for f in findings if f['what'] == what)
        assert found['verdict'] == verdicts[verdict] and found['done'] and f"{verdicts[verdict]}: {what}" in said
        assert any(str(values.get('id', ids[n])) in place.split() for place in found['where']), what
    assert 'leaves the folder' in said and '../../etc/x.jpg' in said and 'bbox xywh [30, 40, -20, -10]' in said
    assert 'errors: a training would stop' in said and json.loads(Path('found.json').read_text())['errors'] == 5


def test_a_clean_file_ends_well_and_is_counted(data, capsys):
    assert main(['check', data(), '--img-prefix', 'data/JPEGImages']) == 0
    said = capsys.readouterr().out
    assert 'nothing stops a training' in said and '12 images (' not in said and 'train.json: 12 images' in said
    rows = {line.split()[0]: line.split()[1:] for line in said.splitlines() if line[:6] in ('class ', 'circle', 'triang')}
    areas = [a['area'] for a in json.loads(Path('data/train.json').read_text())['annotations'] if a['category_id'] == 1 and not a['iscrowd']]
    small, medium = sum(a < 32 ** 2 for a in areas), sum(32 ** 2 <= a < 96 ** 2 for a in areas)
    assert rows['circle'] == [str(n) for n in (len(areas), small, medium, len(areas) - small - medium, 0)] and rows['triangle'][-1] == '1'


def test_a_voc_folder_is_the_same_data(data):
    voc, coco = check('data')[0], check('data/train.json', 'data/JPEGImages')[0]
    assert voc.errors == 0 and set(voc.objects) == set(coco.objects) and voc.images > coco.images
    assert check('data/Annotations')[0].objects == voc.objects
    assert check('data/ImageSets').errors == 1 and 'neither xml files' in check('data/ImageSets')[0].error


def test_a_config_is_all_its_datasets(data, capsys):
    options = [f'{part}_dataloader.dataset.{change}' for part in ('train', 'val', 'test') for change in ('data_root=data/', 'metainfo=None')]
    assert main(['check', 'retinanet_r18-slim_samples', '--cfg-options', *options]) == 0
    said = capsys.readouterr().out
    assert 'train: 12 images' in said and 'val and test: 4 images' in said
    data(lambda d: d.update(annotations=[a for a in d['annotations'] if a['category_id'] != 2]))
    assert main(['check', 'retinanet_r18-slim_samples', '--cfg-options', *options]) == 0
    assert "class 'square' has 0 boxes in train and" in capsys.readouterr().out
    data(lambda d: d['annotations'][0].update(category_id=77))
    assert main(['check', 'retinanet_r18-slim_samples', '--cfg-options', *options]) == 1
    said = capsys.readouterr().out
    assert 'train: cannot be used' in said and 'val and test: 4 images' in said              # the others are looked through all the same


def test_parts_of_a_wrapper_are_checked_one_by_one(data):
    part = dict(type='CocoDataset', data_root='data', data_prefix=dict(img='JPEGImages'), pipeline=[dict(type='LoadImageFromFile')])
    both = dict(type='RepeatDataset', times=2, dataset=dict(type='ConcatDataset', datasets=[dict(part, ann_file='train.json'), dict(part, ann_file='gone.json')]))
    first, second = check(dict(train_dataloader=dict(dataset=both)))
    assert (first.images, first.errors, second.errors) == (12, 0, 1) and 'gone.json does not exist' in second.error
    made = ConcatDataset([CocoDataset('data/train.json'), CocoDataset('data/val.json')])
    assert [c.images for c in check(made)] == [12, 4]
    lost = CocoDataset('data/train.json', data_prefix=dict(img='nowhere'), pipeline=[LoadImageFromFile()])
    assert [check(lost).errors, check(lost).errors, len(lost.report.findings)] == [1, 1, 0]       # a second look finds the same


def test_pictures(data, capsys):
    Path('data/JPEGImages/train_0002.jpg').unlink()
    Path('data/JPEGImages/train_0003.jpg').write_bytes(b'<html>a page')
    Image.new('RGB', (7, 9)).save('data/JPEGImages/train_0004.jpg')
    data()
    assert main(['check', 'data/train.json']) == 0 and 'pictures were not looked for' in capsys.readouterr().out
    assert main(['check', 'data/train.json', '--img-prefix', 'data/JPEGImages']) == 1
    said = capsys.readouterr().out
    assert 'picture is not there (1)' in said and 'train_0002.jpg' in said and 'train_0003.jpg' not in said
    assert main(['check', 'data/train.json', '--img-prefix', 'data/JPEGImages', '--deep']) == 1
    said = capsys.readouterr().out
    assert 'picture is not there (1)' in said and 'picture cannot be used (2)' in said
    assert 'not a picture but a web page' in said and 'is 9 high and 7 wide, its annotation says' in said


def test_4c_no_picture_is_opened_unless_asked(data, monkeypatch):
    from learndet.data.transforms import loading
    opened = []
    monkeypatch.setattr(loading, 'read_picture_file', lambda path: opened.append(path) or Path(path).read_bytes())
    monkeypatch.setattr(Image, 'open', lambda *args, **kwargs: pytest.fail('a picture was opened'))
    assert check('data/train.json', 'data/JPEGImages').errors == 0 and not opened


def test_4d_a_table_for_notebooks(data):
    table = check(data(plant), 'data/JPEGImages')._repr_html_()
    assert '<td style="text-align:left">coordinate is NaN or infinite</td>' in table and table.count('<tr>') > len(PLANTED)
    assert '<b>' not in check(data(lambda d: d['images'][0].update(file_name='<b>.jpg')), 'data/JPEGImages')._repr_html_()


@pytest.mark.parametrize('path, words, fragment', [
    ('nothing.json', [], 'does not exist'), ('data/train.json', ['--classes', 'circle', 'sqare', 'triangle'], "did you mean 'square'"),
    ('data/README.md', [], 'README.md')])
def test_what_cannot_be_read_is_an_error_in_words(data, capsys, path, words, fragment):
    assert main(['check', path, *words]) == 1
    said = capsys.readouterr()
    assert fragment in said.out + said.err and 'Traceback' not in said.err


def test_the_package_is_a_program(data):
    done = subprocess.run([sys.executable, '-m', 'learndet', 'check', 'data/train.json'], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and 'nothing stops a training' in done.stdout, done.stderr
    data(lambda d: d['annotations'][0].update(category_id=77))
    done = subprocess.run([sys.executable, '-m', 'learndet', 'check', 'data/train.json'], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and 'category id is not in the file' in done.stdout
