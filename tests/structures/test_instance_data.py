"InstanceData, PixelData, DetDataSample: fields stay aligned, types are kept, nothing shares what it should not."
import copy
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from learndet.structures.instance_data import BaseDataElement, DetDataSample, InstanceData, PixelData
from learndet.structures.masks import BitmapMasks, PolygonMasks


def objects(n=4):
    return InstanceData(
        metainfo=dict(img_shape=(800, 1196), flip=False), bboxes=torch.arange(4. * n).view(n, 4), labels=torch.arange(n),
        names=[f'object {i}' for i in range(n)], area=np.arange(n) * 10., pair=tuple(range(n)), code='abcdefgh'[:n],
        masks=BitmapMasks(np.arange(n).reshape(n, 1, 1) * np.ones((n, 3, 5))),
        outlines=PolygonMasks([[[0, 0, i + 1, 0, 0, 1]] for i in range(n)], 3, 5), inner=InstanceData(level=torch.arange(n)))


def order_of(instances):
    "The numbers of the objects as every single field tells them."
    told = dict(bboxes=(instances.bboxes[:, 0] / 4).long().tolist(), labels=instances.labels.tolist(),
                names=[int(name.split()[1]) for name in instances.names], area=[int(area / 10) for area in instances.area],
                pair=list(instances.pair), code=['abcdefgh'.index(c) for c in instances.code],
                masks=[int(mask[0, 0]) for mask in instances.masks], outlines=[int(p[0].max()) - 1 for p in instances.outlines],
                inner=instances.inner.level.tolist())
    assert len({tuple(numbers) for numbers in told.values()}) == 1, told
    return told['labels']


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(-4, 3), max_size=6))
def test_all_fields_follow_every_index(positions):
    for index in (positions, np.array(positions, dtype=int), torch.tensor(positions, dtype=torch.long)):
        assert order_of(objects()[index]) == [p % 4 for p in positions]
    mask = [i in [p % 4 for p in positions] for i in range(4)]
    for index in (mask, np.array(mask), torch.tensor(mask)): assert order_of(objects()[index]) == [i for i in range(4) if mask[i]]
    for p in positions: assert order_of(objects()[p]) == [p % 4] and order_of(objects()[p:]) == list(range(4))[p:]
    joined = InstanceData.cat([objects()[:1], objects()[positions], objects()[:0]])
    assert order_of(joined) == [0] + [p % 4 for p in positions] and joined.metainfo == dict(img_shape=(800, 1196), flip=False)


def test_five_boxes_are_five_instances():
    five = InstanceData(metainfo=dict(img_shape=(800, 1196), pad_shape=(800, 1216)), bboxes=torch.rand(5, 4))
    assert len(five) == 5 and 'img_shape' in five.metainfo_keys() and 'bboxes' in five and five.keys() == ['bboxes']
    assert five.metainfo_keys() == ['img_shape', 'pad_shape'] and len(InstanceData()) == 0


def test_a_wrong_length_is_told_with_both():
    with pytest.raises(ValueError, match="'scores' has 3 entries and 'bboxes' has 5"):
        InstanceData(bboxes=torch.rand(5, 4), scores=torch.rand(3))
    instances = InstanceData(bboxes=torch.rand(5, 4), scores=torch.rand(5))
    with pytest.raises(ValueError, match="'bboxes' has 2 entries and 'scores' has 5"): instances.bboxes = torch.rand(2, 4)
    assert len(instances) == 5
    for value in (3, None, torch.tensor(1.), {1, 2, 3, 4, 5}, dict(zip(range(5), range(5)))):
        with pytest.raises(TypeError, match="'other' is a"): instances.other = value


@pytest.mark.parametrize('name, kind', DetDataSample.typed_fields.items())
def test_typed_fields(name, kind):
    sample, other = DetDataSample(), PixelData if kind is InstanceData else InstanceData
    for wrong in (other(), torch.zeros(3, 4), [], None, dict(bboxes=1)):
        with pytest.raises(TypeError, match=f"{name!r} of a DetDataSample has to be {kind.__name__}"): setattr(sample, name, wrong)
    right = kind()
    setattr(sample, name, right)
    assert getattr(sample, name) is right and name in sample
    delattr(sample, name)
    assert name not in sample
    with pytest.raises(AttributeError, match=f"no field {name!r}"): getattr(sample, name)


def test_metainfo_is_apart_from_data():
    sample = DetDataSample(metainfo=dict(img_shape=[4, 5]), gt_instances=objects())
    with pytest.raises(AttributeError, match='set_metainfo'): sample.img_shape = (1, 2)
    with pytest.raises(AttributeError, match='is a data field'): sample.set_metainfo(dict(gt_instances=1))
    with pytest.raises(AttributeError, match='is a method'): sample.items = 3
    given = dict(shape=[1, 2])
    sample.set_metainfo(given); given['shape'].append(3); sample.metainfo['img_shape'].append(6)
    assert sample.metainfo == dict(img_shape=[4, 5], shape=[1, 2]) and sample.get('img_shape') == [4, 5]
    sample.set_metainfo(dict(img_shape=(9, 9)))
    assert sample.img_shape == (9, 9) and sample.get('nothing') is None and sample.get('nothing', 1) == 1


def test_copies_and_processes():
    sample = DetDataSample(metainfo=dict(img_id=3), gt_instances=objects())
    for twin in (copy.deepcopy(sample), sample.clone(), pickle.loads(pickle.dumps(sample))):
        assert order_of(twin.gt_instances) == [0, 1, 2, 3] and twin.metainfo == sample.metainfo
        twin.gt_instances.bboxes += 1
    assert order_of(sample.gt_instances) == [0, 1, 2, 3]
    shallow = copy.copy(sample)
    assert shallow.gt_instances is sample.gt_instances


def test_devices_and_types_reach_what_is_inside():
    sample = DetDataSample(gt_instances=objects(), gt_sem_seg=PixelData(sem_seg=torch.zeros(3, 5)))
    there = sample.to('meta')
    assert there.gt_instances.inner.level.device.type == there.gt_sem_seg.sem_seg.device.type == 'meta'
    assert sample.gt_instances.inner.level.device.type == 'cpu' and sample.cpu().gt_instances.labels.device.type == 'cpu'
    arrays = sample.numpy()
    assert isinstance(arrays.gt_instances.inner.level, np.ndarray) and order_of(arrays.to_tensor().gt_instances) == [0, 1, 2, 3]
    grown = InstanceData(bboxes=torch.zeros(2, 4, requires_grad=True))
    assert not grown.detach().bboxes.requires_grad and grown.bboxes.requires_grad
    assert set(sample.to_dict()) == {'gt_instances', 'gt_sem_seg'} and isinstance(sample.to_dict()['gt_instances'], dict)


def test_dictionary_habits():
    element = BaseDataElement(metainfo=dict(a=1), b=2)
    assert element.all_keys() == ['a', 'b'] and element.values() == [2] and dict(element.items()) == dict(b=2)
    assert dict(element.metainfo_items()) == dict(a=1) and element.pop('c', 5) == 5 and element.pop('b') == 2
    with pytest.raises(AttributeError, match="no field 'b' to remove"): element.pop('b')
    element.update(BaseDataElement(metainfo=dict(a=7), d=8))
    assert (element.a, element.d) == (7, 8) and hasattr(element, 'd') and not hasattr(element, 'e')


def test_printing_shows_both_kinds():
    text = repr(DetDataSample(metainfo=dict(img_id=3), gt_instances=objects(1)))
    assert text.count('META INFORMATION') == 3 and text.count('DATA FIELDS') == 3 and 'img_id: 3' in text and '0x' not in text
    assert 'img_shape: (800, 1196)' in text and all(line == line.rstrip() for line in text.splitlines())


def test_maps():
    maps = PixelData(sem_seg=torch.zeros(6, 8), depth=np.zeros((2, 6, 8)))
    assert maps.shape == (6, 8) and maps.sem_seg.shape == (1, 6, 8) and maps[2:4, 1:].depth.shape == (2, 2, 7)
    assert maps[-1, 0].shape == (1, 1) and PixelData().shape is None
    with pytest.raises(ValueError, match=r"'edge' is \(8, 6\)"): maps.edge = torch.zeros(8, 6)
    with pytest.raises(TypeError, match="'edge' is not"): maps.edge = torch.zeros(1, 1, 6, 8)
    maps.sem_seg = torch.ones(1, 6, 8)


@pytest.mark.parametrize('index, words', [(4, '4 of 4'), (-5, '-5 of 4'), ([True], 'mask of 1 for 4'), (torch.zeros(2, 2), r'\(2, 2\)'),
                                          (torch.tensor(1), r'shape \(\)')])
def test_bad_indices(index, words):
    with pytest.raises(IndexError, match=words): objects()[index]
