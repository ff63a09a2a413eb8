"""Assigners of regions, points and grids give MMDetection 3.3's codes.

Where MMDetection is installed (LEARNDET_MMDET names its folder) 200 cases of each are compared, elsewhere the stored answers of
a dozen. Where we differ on purpose is said in `assigners_a_cases` and shown in the tests at the end.
"""
import json
import warnings
from pathlib import Path

import pytest
import torch

import mmdet_reference
from assigners_a_cases import COMPONENTS, K, LAYOUT, anchors, boxes, fingerprint, ours, theirs

GOLDEN = json.loads((Path(__file__).parent / 'golden_assigners_a.json').read_text(encoding='utf-8'))
live = pytest.mark.skipif(not mmdet_reference.available(),
                          reason='LEARNDET_MMDET names no folder with MMDetection 3.3; its stored answers are compared instead')


@live
@pytest.mark.parametrize('name', COMPONENTS)
def test_equal_to_mmdetection(name):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        mine, other = ours(), theirs()
    seen = set()
    for seed in range(240):
        got, wanted = COMPONENTS[name](mine, seed), COMPONENTS[name](other, seed)
        assert fingerprint(got) == fingerprint(wanted), seed
        seen |= set(torch.cat([t.flatten().long() for t in got]).tolist())
    assert len(seen) >= 2                                                    # there was something to compare


@pytest.mark.parametrize('name', COMPONENTS)
def test_equal_to_stored_answers(name):
    assert len(GOLDEN[name]) >= 12
    for seed, stored in enumerate(GOLDEN[name]): assert fingerprint(COMPONENTS[name](ours(), seed)) == stored, seed


def test_a_changed_code_is_seen():
    codes = COMPONENTS['GridAssigner'](ours(), 3)
    before = fingerprint(codes)
    codes[0][7] += 1
    assert fingerprint(codes) != before


# Where we differ, on purpose

@live
def test_an_object_that_overlaps_no_approximation_takes_none():
    "MMDetection with min_pos_iou=0: each prior has that object's best IoU, 0, and all of them become positive."
    mine, other = ours(), theirs()
    priors, far = torch.tensor([[0., 0, 8, 8], [8, 0, 16, 8]]), torch.tensor([[200., 200, 220, 220]])
    gt, pred = other.InstanceData(bboxes=far, labels=torch.tensor([0])), other.InstanceData(priors=priors, approxs=priors[:, None])
    assert other.make('ApproxMaxIoUAssigner', .5, .4).assign(pred, gt).gt_inds.tolist() == [1, 1]
    assert mine.make('ApproxMaxIoUAssigner', .5, .4).assign(priors, far, approxs=priors[:, None]).gt_inds.tolist() == [0, 0]


@live
def test_a_region_positive_overlaps_its_object():
    "Rounding to cells moves the center of a tiny object to an anchor that does not touch it."
    mine, other = ours(), theirs()
    small = [torch.tensor([[3., 3, 13, 13]]) - .5, torch.tensor([[12.2, 12.2, 12.4, 12.4]])]
    priors = anchors()
    priors[:64] = torch.cat([(priors[:64, :2] + priors[:64, 2:]) / 2 - 2, (priors[:64, :2] + priors[:64, 2:]) / 2 + 2], dim=-1)
    gt = other.InstanceData(bboxes=small[1], labels=torch.tensor([0]))
    pred = other.InstanceData(priors=priors, valid_flags=torch.ones(len(priors), dtype=torch.bool))
    theirs_codes = other.make('RegionAssigner').assign(pred, gt, dict(img_shape=(64, 64)), allowed_border=-1, **LAYOUT).gt_inds
    codes = mine.make('RegionAssigner').assign(priors, small[1], **LAYOUT).gt_inds
    assert (theirs_codes > 0).any() and not (codes > 0).any()


@live
def test_objects_without_area_and_regions():
    mine, other = ours(), theirs()
    pts = torch.tensor([[x, y, 8.] for y in range(0, 64, 8) for x in range(0, 64, 8)])
    line, crowd = torch.tensor([[20., 20, 20, 40]]), torch.tensor([[-1., -1, 30, 30]])
    gt = other.InstanceData(bboxes=line, labels=torch.tensor([0]))
    assert (other.make('PointAssigner').assign(other.InstanceData(priors=pts), gt).gt_inds > 0).sum() == 3
    got = mine.make('PointAssigner').assign(pts, line, gt_bboxes_ignore=crowd).gt_inds
    assert (got > 0).sum() == 0 and (got == -1).sum() == 16 and (got == 0).sum() == 48


def test_fewer_priors_than_asked_for():
    "MMDetection's topk fails here; an object takes what there is."
    few, gts = boxes(3), boxes(2)
    for name, args, kwargs in (('PointAssigner', (), {}), ('UniformAssigner', (.15, .7), dict(bbox_preds=few + 1))):
        priors = torch.cat([few[:, :2], torch.full((3, 1), 8.)], dim=1) if name == 'PointAssigner' else few
        assert ours().make(name, *args).assign(priors, gts, **kwargs).gt_inds.shape == (3,)


def test_shadows_without_classes():
    result = ours().make('CenterRegionAssigner', .5, .9).assign(boxes(20), boxes(3))
    assert result.class_weights(K).shape == (20, K)
