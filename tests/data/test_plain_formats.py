"Lists, the middle format, text, and conversions between them."
import json, pickle
from pathlib import Path

import numpy as np
import pytest

from learndet.data.annotations import DatasetError
from learndet.data.base_dataset import BaseDetDataset, SampleError
from learndet.data.coco import CocoDataset, via_to_coco
from learndet.data.plain_formats import ListDataset, MiddleDataset, TextDataset, to_coco, to_middle
from learndet.data.transforms.formatting import PackDetInputs
from learndet.data.transforms.loading import LoadAnnotations, LoadImageFromNDArray

PICTURE = np.zeros((80, 100, 3), np.uint8)


def item(**kwargs): return dict(dict(img=PICTURE, bboxes=[[1, 2, 30, 40]], labels=[0]), **kwargs)


@pytest.mark.parametrize('bad, fragment', [
    (item(labels=[]), '1 bboxes, 0 labels'), (item(labels=[2]), 'label is not a class'), (item(labels=[-1]), 'label is not a class'),
    (item(labels=['dgo']), "'dgo' is not one of"), (item(bboxes=[[1, 2, 3]]), 'expected (n, 4)'), (item(ignore=[]), '0 ignore flags'),
    (item(bboxes=[[1, 2, np.nan, 4]]), 'NaN')])
def test_faults_of_lists_are_named(bad, fragment):
    with pytest.raises(DatasetError) as e: ListDataset([item(), bad], classes=('dog', 'cat'))
    assert fragment in str(e.value) and ('item 1' in str(e.value) or 'object 0' in str(e.value))


def test_a_picture_without_objects_goes_through_the_pipeline():
    dataset = ListDataset([item(bboxes=np.zeros((0, 4)), labels=[])], classes=('dog',),
                          pipeline=[LoadImageFromNDArray(), LoadAnnotations(), PackDetInputs()])
    sample = dataset[0]['data_samples']
    assert sample.gt_instances.bboxes.shape == (0, 4) and len(dataset.ground_truth()) == 0


def test_the_dataset_keeps_its_picture():
    def scribble(results): results['img'][:] = 9; return results
    dataset = ListDataset([item()], classes=('dog',), pipeline=[scribble])
    dataset[0]
    assert not PICTURE.any()


def test_ignored_objects_are_kept_apart():
    dataset = ListDataset([item(bboxes=[[1, 2, 30, 40], [5, 5, 9, 9]], labels=['dog', 'cat'], ignore=[False, True])], classes=('dog', 'cat'),
                          pipeline=[LoadImageFromNDArray(), LoadAnnotations(), PackDetInputs()])
    sample = dataset[0]['data_samples']
    assert (len(sample.gt_instances), len(sample.ignored_instances)) == (1, 1)


def test_a_class_of_ones_own_in_both_spellings(tmp_path):
    data = [dict(img_path='a.jpg', height=80, width=100, instances=[dict(bbox=[1, 2, 30, 40], bbox_label=1, ignore_flag=0)])]
    class Plain(BaseDetDataset):
        METAINFO = dict(classes=('dog', 'cat'), palette=[(1, 2, 3), (4, 5, 6)])
        def load_data_list(self): return data
    class WithFile(Plain):
        def load_data_list(self, ann_file): assert ann_file.endswith('x.txt'); return data
    for dataset in (Plain(), WithFile('x.txt', data_root='d', data_prefix=dict(img='pictures'))):
        assert dataset.metainfo == dict(classes=('dog', 'cat'), palette=[(1, 2, 3), (4, 5, 6)])
    assert dataset.get_data_info(0)['img_path'] == str(Path('d', 'pictures', 'a.jpg'))
    assert Plain(metainfo=dict(classes=('cat',))).table.labels.tolist() == [0]
    assert len(Plain(metainfo=dict(classes=('dog',)), filter_cfg=dict(filter_empty_gt=True))) == 0


def test_middle_format_is_the_same_in_json_yaml_and_pickle(tmp_path):
    yaml = pytest.importorskip('yaml')
    data = dict(metainfo=dict(classes=['dog', 'cat']), data_list=[dict(img_path='a.jpg', height=80, width=100, instances=[
        dict(bbox=[1., 2., 30., 40.], bbox_label=1, ignore_flag=1)])])
    for name, raw in (('a.json', json.dumps(data).encode()), ('a.yml', yaml.safe_dump(data).encode()), ('a.pkl', pickle.dumps(data))):
        (tmp_path / name).write_bytes(raw)
    infos = [MiddleDataset(n, data_root=str(tmp_path)).get_data_info(0) for n in ('a.json', 'a.yml', 'a.pkl')]
    assert infos[0] == infos[1] == infos[2] and infos[0]['instances'][0]['ignore_flag'] == 1


class Evil:
    def __reduce__(self): return print, ('code of a stranger',)


@pytest.mark.parametrize('thing', [Evil(), Path('x'), print])
def test_pickles_do_not_run_code(tmp_path, thing, capsys):
    (tmp_path / 'a.pkl').write_bytes(pickle.dumps(dict(metainfo={}, data_list=[thing])))
    with pytest.raises(DatasetError, match='could run code'): MiddleDataset('a.pkl', data_root=str(tmp_path))
    assert 'stranger' not in capsys.readouterr().out


TEXT = '#\n000001.jpg\n1280 720\n2\n10 20 40 60 1\n20 40 50 60 2\n#\n000002.jpg\n1280 720\n3\n50 20 40 60 2\n20 40 30 45 2\n30 40 50 60 3\n'


def text(tmp_path, text=TEXT, **kwargs):
    (tmp_path / 'a.txt').write_text(text)
    return TextDataset('a.txt', data_root=str(tmp_path), metainfo=dict(classes=('person', 'bicycle', 'car', 'motorcycle')), **kwargs)


def test_the_text_format_of_the_manual(tmp_path):
    dataset = text(tmp_path)
    assert [dataset.get_cat_ids(i) for i in range(2)] == [[1, 2], [2, 2, 3]]
    assert [dataset.get_data_info(i)['width'] for i in range(2)] == [1280, 1280]


@pytest.mark.parametrize('old, new, line', [('1280 720\n2', '1280\n2', 3), ('\n3\n', '\n2\n', 10), ('20 40 30 45 2', '20 40 30 x 2', 12), ('#\n', '', 1)])
def test_text_errors_name_the_line(tmp_path, old, new, line):
    with pytest.raises(DatasetError, match=f'a.txt, line {line}:'): text(tmp_path, TEXT.replace(old, new, 1))


def test_there_and_back(tmp_path):
    dataset = text(tmp_path)
    to_coco(dataset, tmp_path / 'c.json'), to_middle(dataset, tmp_path / 'm.json')
    for other in (CocoDataset('c.json', data_root=str(tmp_path)), MiddleDataset('m.json', data_root=str(tmp_path))):
        for c in ('bboxes', 'labels', 'area', 'ignore', 'img_index', 'shapes', 'file_names'):
            assert (getattr(other.table, c) == getattr(dataset.table, c)).all(), c
        assert other.classes.names == dataset.classes.names


def test_via_in_both_of_its_shapes(tmp_path):
    from PIL import Image
    Image.new('RGB', (60, 40)).save(tmp_path / 'a.jpg')
    shape = dict(shape_attributes=dict(all_points_x=[10, 30, 20], all_points_y=[5, 8, 25]))
    for n, regions in enumerate(([shape], {'0': shape})):
        image = {'a.jpg1': dict(filename='a.jpg', regions=regions)}
        (tmp_path / 'via.json').write_text(json.dumps({'_via_img_metadata': image} if n else image))
        coco = via_to_coco(tmp_path / 'via.json', tmp_path, tmp_path / 'c.json')
        assert coco['annotations'][0]['bbox'] == [10, 5, 20, 20] and coco['annotations'][0]['area'] == 400
        assert CocoDataset('c.json', data_root=str(tmp_path)).get_data_info(0)['instances'][0]['mask'][0][:2] == [10.5, 5.5]


def test_samples_thrown_away_are_replaced_and_in_a_test_are_an_error():
    data = [item(img_id=i) for i in range(5)]
    even = lambda results: results if results['img_id'] % 2 == 0 else None
    dataset = ListDataset(data, classes=('dog',), pipeline=[even])
    assert all(dataset[i]['img_id'] % 2 == 0 for i in range(5)) and dataset[1, 3]['img_id'] == dataset[1, 3]['img_id']
    with pytest.raises(SampleError, match='has to be scored'): ListDataset(data, classes=('dog',), pipeline=[even], test_mode=True)[1]
    with pytest.raises(RuntimeError, match='img_id=3'): ListDataset(data, classes=('dog',), pipeline=[lambda r: 1 / 0])[3]
