"Laws of test-time augmentation: views come from lists, boxes find back, and views that add nothing change nothing."
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from learndet.core.registry import build
from learndet.core.samples import samples_dir
from learndet.data.coco import CocoDataset
from learndet.data.samplers import build_dataloader, pseudo_collate
from learndet.data.transforms.formatting import PackDetInputs, TestTimeAug
from learndet.data.transforms.geometric import Pad, RandomFlip, Resize
from learndet.data.transforms.pipeline import same_value
from learndet.engine.checkpoint import CheckpointError, check_complete, load_state
from learndet.models.detectors.test_time_aug import DetTTAModel, bboxes_on_photograph, merge_views
from learndet.structures.boxes import flip_bboxes
from learndet.structures.instance_data import DetDataSample, InstanceData
from learndet.structures.nms import NMS

quick = settings(max_examples=25, deadline=None)
SIZE = (60, 96)


class Reader(nn.Module):
    "Finds what is painted: the smallest box around all pixels of each colour, in pixels of the photograph."
    def __init__(self):
        super().__init__()
        self.weight, self.batches = nn.Parameter(torch.zeros(3)), []

    def test_step(self, data):
        self.batches.append([tuple(img.shape) for img in data['inputs']])
        for img, sample in zip(data['inputs'], data['data_samples']):
            planes = [(label, (plane > 200).nonzero()) for label, plane in enumerate(img)]
            boxes = [[label, *(xy.amin(0)).flip(0).tolist(), *(xy.amax(0) + 1).flip(0).tolist()] for label, xy in planes if len(xy)]
            found = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 5)
            sample.pred_instances = InstanceData(bboxes=found[:, 1:] / torch.tensor(sample.scale_factor).repeat(2), labels=found[:, 0].long(),
                                                 scores=.9 - .1 * found[:, 0])
        return data['data_samples']


@st.composite
def pictures(draw):
    "A grey picture with up to three coloured rectangles, one a class, and its boxes."
    img, truth = np.full((*SIZE, 3), 90, np.uint8), {}
    for c in range(draw(st.integers(0, 3))):
        x, w, y, h = c * 32 + draw(st.integers(0, 15)), draw(st.integers(2, 16)), draw(st.integers(0, 40)), draw(st.integers(2, 20))
        img[y:y + h, x:x + w, c] = 250
        truth[c] = (x, y, x + w, y + h)
    return dict(img=img, img_id=3, img_shape=SIZE, ori_shape=SIZE, rng=np.random.default_rng(0)), truth


FLIPS = [RandomFlip(0.), *(RandomFlip(1., direction) for direction in ('horizontal', 'vertical', 'diagonal'))]
SCALES = [Resize(scale_factor=s, interpolation='nearest') for s in (1., 2., (3., 2.))]


@quick
@given(pictures(), st.permutations(range(4)), st.integers(1, 3))
def test_inf_10_views_merge_back_to_the_boxes_of_the_photograph(data, order, n_scales):
    "In any order of views, for every mirror and scale."
    results, truth = data
    views = TestTimeAug([SCALES[:n_scales], [FLIPS[i] for i in order], [PackDetInputs()]])
    sample, = DetTTAModel(module=Reader()).test_step(pseudo_collate([views(results)]))
    found = sample.pred_instances
    assert {int(label): tuple(box.tolist()) for label, box in zip(found.labels, found.bboxes)} == truth and len(found) == len(truth)
    assert not sample.flip and sample.img_id == 3


@quick
@given(pictures())
def test_inf_10_a_symmetric_picture_needs_no_mirror(data):
    results, truth = data
    half = results['img'][:, :48]
    results['img'] = np.concatenate([half, half[:, ::-1]], axis=1)
    plain = Reader().test_step(pseudo_collate([PackDetInputs()(results)]))[0].pred_instances
    both = DetTTAModel(module=Reader()).test_step(pseudo_collate([TestTimeAug([FLIPS[:2], [PackDetInputs()]])(results)]))[0].pred_instances
    assert torch.equal(plain.bboxes, both.bboxes) and torch.equal(plain.labels, both.labels) and torch.equal(plain.scores, both.scores)


@quick
@given(st.lists(st.integers(1, 3), min_size=1, max_size=3), pictures())
def test_pipe_24_as_many_views_as_ways_to_choose(lengths, data):
    "Product of the lists' lengths; the sample that is looked at stays as it was."
    results, before = data[0], {k: np.copy(v) if isinstance(v, np.ndarray) else v for k, v in data[0].items()}
    pools = (SCALES, FLIPS, [Pad(size_divisor=d) for d in (8, 16, 32)])
    views = TestTimeAug([*(pool[:n] for pool, n in zip(pools, lengths)), [PackDetInputs()]])(results)
    assert len(views['inputs']) == len(views['data_samples']) == np.prod(lengths)
    assert all(same_value(results[k], before[k]) for k in before if k != 'rng') and set(results) == set(before)


def test_inf_11_three_scales_and_two_mirrors_are_six_views():
    "MMDetection's retinanet_tta, by its config: six passes of a batch of two, largest pictures not behind smaller ones by accident."
    scales = [(1333, 800), (666, 400), (2000, 1200)]
    pipeline = build([dict(type='LoadImageFromFile', backend_args=None), dict(type='TestTimeAug', transforms=[
        [dict(type='Resize', scale=s, keep_ratio=True) for s in scales], [dict(type='RandomFlip', prob=1.), dict(type='RandomFlip', prob=0.)],
        [dict(type='LoadAnnotations', with_bbox=True)],
        [dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'flip', 'flip_direction'))]])])
    dataset = CocoDataset(ann_file='val.json', data_root=str(samples_dir()), data_prefix=dict(img='JPEGImages/'), pipeline=pipeline, test_mode=True)
    batch = next(iter(build_dataloader(dataset, batch_size=2)))
    assert [len(views) for views in batch['inputs']] == [6, 6]
    assert [s.flip for s in batch['data_samples'][0]] == [True, False] * 3
    longest = [max(view.shape[1:]) for view in batch['inputs'][0]]
    assert longest[::2] == longest[1::2] and longest[2] < longest[0] < longest[4]
    reader = Reader()
    assert len(DetTTAModel(module=reader).test_step(batch)) == 2 and [len(b) for b in reader.batches] == [2] * 6


@quick
@given(st.integers(0, 10 ** 6), st.sampled_from([.3, .5, .7]))
def test_one_plain_view_is_the_plain_prediction(seed, thr):
    "Suppression of what was suppressed already removes nothing and keeps the order; twice the same view is once."
    g = torch.Generator().manual_seed(seed)
    boxes = torch.rand(30, 4, generator=g) * 40
    boxes[:, 2:] += boxes[:, :2]
    labels = torch.randint(0, 3, (30,), generator=g)
    keep, scores = NMS(thr)(boxes, torch.rand(30, generator=g), labels)
    found = InstanceData(bboxes=boxes[keep], scores=scores, labels=labels[keep])
    view = DetDataSample(metainfo=dict(flip=False, flip_direction=None, ori_shape=SIZE), pred_instances=found)
    for views in ([view], [view, view]):
        merged = merge_views(views, NMS(thr)).pred_instances
        assert all(torch.equal(merged.get(k), found.get(k)) for k in ('bboxes', 'scores', 'labels'))
    assert len(merge_views([view], NMS(thr), max_per_img=-1).pred_instances) == len(found) > len(merge_views([view], NMS(thr), 2).pred_instances) == 2


@quick
@given(st.sampled_from(['horizontal', 'vertical', 'diagonal']), st.integers(0, 1000))
def test_mirrors_are_undone(direction, seed):
    boxes = torch.rand(5, 4, generator=torch.Generator().manual_seed(seed)) * 50
    view = DetDataSample(metainfo=dict(flip=True, flip_direction=direction, ori_shape=SIZE), pred_instances=InstanceData(bboxes=flip_bboxes(boxes, SIZE, direction)))
    assert torch.allclose(bboxes_on_photograph(view), boxes, atol=1e-4)


def test_weights_have_the_names_of_the_detector():
    "A checkpoint of the detector fits its test-time wrapper, and what it lacks is noticed."
    wrapped = DetTTAModel(module=Reader())
    report = load_state(wrapped, dict(state_dict=dict(weight=torch.ones(3))))
    assert report.exact and wrapped.module.weight.tolist() == [1, 1, 1]
    check_complete(wrapped, report, 'a.pth')
    with pytest.raises(CheckpointError, match='1 of the 1 weights of Reader are not in b.pth'):
        check_complete(wrapped, load_state(wrapped, dict(state_dict=dict(other=torch.ones(3))), min_matched=0), 'b.pth')


def test_a_preprocessor_goes_to_the_detector_that_has_none():
    "Where a config has `data_preprocessor` beside its model, the wrapper hands it on; one of the detector's own stays."
    module, own = Reader(), nn.Identity()
    module.data_preprocessor = None
    DetTTAModel(module=module, data_preprocessor=own)
    DetTTAModel(module=module, data_preprocessor=nn.Identity())
    assert module.data_preprocessor is own


def test_masks_are_refused_in_plain_words():
    masked = InstanceData(bboxes=torch.zeros(1, 4), scores=torch.ones(1), labels=torch.zeros(1).long(), masks=torch.zeros(1, *SIZE))
    view = DetDataSample(metainfo=dict(flip=False, ori_shape=SIZE), pred_instances=masked)
    with pytest.raises(ValueError, match='have masks, which it cannot merge'): merge_views([view], NMS())


@pytest.mark.parametrize('late', list(itertools.permutations(range(3), 2)))
def test_a_mirror_behind_padding_is_refused(late):
    "Wherever the two stand among other steps."
    steps = [[Resize((20, 20))]] * 3
    steps[late[0]], steps[late[1]] = [Pad(size_divisor=32)], FLIPS[:2]
    make = lambda: TestTimeAug([*steps, [PackDetInputs()]])
    if late[0] > late[1]: assert len(make().subroutines) == 2
    else:
        with pytest.raises(ValueError, match='RandomFlip stands behind Pad'): make()
