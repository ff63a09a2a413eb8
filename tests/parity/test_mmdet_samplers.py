"""Samplers draw as MMDetection 3.3's do: the same numbers, and over many draws the same priors as often.

OHEM and Score-HLR, which draw by loss, are compared prior by prior in `test_mmdet_assigners_a`. We differ on purpose in two places,
shown at the end: MMDetection's `InstanceBalancedPosSampler` may fill up with a prior it has drawn already, and then has fewer;
its `IoUBalancedNegSampler` changes its `floor_thr` from -1 to 0 at the first image.
"""
import warnings

import pytest
import torch

import mmdet_reference
from learndet.task_modules.assigners.assign_result import AssignResult
from learndet.task_modules.samplers.balanced_sampling import CombinedSampler, InstanceBalancedPosSampler, IoUBalancedNegSampler
from learndet.task_modules.samplers.sampling import MaskPseudoSampler, RandomSampler

live = pytest.mark.skipif(not mmdet_reference.available(), reason='LEARNDET_MMDET names no folder with MMDetection 3.3')


def theirs(name, gt_inds, max_overlaps, *args, **kwargs):
    "One draw of MMDetection's sampler: masks of positives and negatives."
    import mmdet.models.task_modules as modules
    from mmengine.structures import InstanceData
    sampler = getattr(modules, name)(*args, add_gt_as_proposals=False, **kwargs)
    boxes = torch.rand(len(gt_inds), 4)
    result = modules.AssignResult(9, gt_inds.clone(), max_overlaps.clone(), torch.where(gt_inds > 0, 0, -1))
    out = sampler.sample(result, InstanceData(priors=boxes), InstanceData(bboxes=torch.rand(9, 4), labels=torch.zeros(9).long()))
    return tuple(torch.zeros(len(gt_inds), dtype=torch.bool).index_fill(0, inds, True) for inds in (out.pos_inds, out.neg_inds))


def case(seed, P=60):
    torch.manual_seed(seed)
    gt_inds = torch.randint(-1, 5, (P,)) * (torch.rand(P) < (.3, .6, 0.)[seed % 3])
    overlaps = torch.where(gt_inds > 0, .5 + torch.rand(P) / 2, torch.rand(P) * .5 * (torch.rand(P) < .7))
    return gt_inds, torch.where(gt_inds < 0, -1., overlaps), 1 + seed % 30, (.25, .5, 1.)[seed % 3]


@pytest.fixture(scope='module', autouse=True)
def quiet():
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        if mmdet_reference.available(): mmdet_reference.load()
        yield


@live
@pytest.mark.parametrize('part', range(4))
def test_balanced_over_objects(part):
    for seed in range(part * 60, part * 60 + 60):
        gt_inds, overlaps, num, fraction = case(seed)
        pos, neg = theirs('InstanceBalancedPosSampler', gt_inds, overlaps, num, fraction, neg_pos_ub=(-1, 2)[seed % 2])
        ours = InstanceBalancedPosSampler(num, fraction, neg_pos_ub=(-1, 2)[seed % 2]).sample(AssignResult(gt_inds, overlaps))
        counts = [torch.tensor([int((mask & (gt_inds == i)).sum()) for i in range(1, 5)]) for mask in (ours.pos, pos)]
        there = torch.tensor([int((gt_inds == i).sum()) for i in range(1, 5)])
        wanted = int(num * fraction)
        each = round(wanted / max(int((there > 0).sum()), 1)) + 1
        first = there.clamp(max=each).sum()
        assert counts[0].sum() == min(wanted, int(there.sum())) >= counts[1].sum()
        if first <= wanted: assert (counts[0] >= there.clamp(max=each)).all() and (counts[1] >= there.clamp(max=each)).all()
        if first >= wanted: assert counts[1].sum() == counts[0].sum() and all((c <= each).all() for c in counts if there.sum() > wanted)
        if counts[0].sum() == counts[1].sum(): assert ours.neg.sum() == neg.sum()


@live
@pytest.mark.parametrize('settings', [{}, dict(floor_thr=0, floor_fraction=.3), dict(floor_thr=.1, floor_fraction=.5, num_bins=2),
                                      dict(floor_thr=.2, num_bins=1), dict(num_bins=4)])
def test_balanced_over_iou(settings):
    for seed in range(60):
        gt_inds, overlaps, num, fraction = case(seed)
        low = max(settings.get('floor_thr', -1), 0)
        _, neg = theirs('IoUBalancedNegSampler', gt_inds, overlaps, num, fraction, **settings)
        sampler = IoUBalancedNegSampler(num, fraction, **settings)
        ours = sampler.sample(AssignResult(gt_inds, overlaps))
        assert ours.neg.sum() == neg.sum()
        floor = (overlaps < settings['floor_thr']) | (overlaps == 0) & (settings['floor_thr'] == 0) if 'floor_thr' in settings else overlaps < -2
        assert (ours.neg & floor).sum() == (neg & floor).sum(), (seed, low)


@live
@pytest.mark.parametrize('name, ours, settings', [
    ('RandomSampler', RandomSampler, {}), ('InstanceBalancedPosSampler', InstanceBalancedPosSampler, {}),
    ('IoUBalancedNegSampler', IoUBalancedNegSampler, {}), ('IoUBalancedNegSampler', IoUBalancedNegSampler, dict(floor_thr=.1, floor_fraction=.4))])
def test_each_prior_as_often(name, ours, settings):
    "Shares over 600 draws differ by less than five standard errors."
    torch.manual_seed(0)
    gt_inds = torch.tensor([1] * 14 + [2] * 5 + [3] * 3 + [0] * 40 + [-1] * 3)
    overlaps = torch.cat([.5 + torch.rand(22) / 2, torch.rand(40) ** 2 / 2, torch.full((3,), -1.)])
    N, num, fraction = 600, 24, 8 / 24
    draws = [theirs(name, gt_inds, overlaps, num, fraction, **settings) for _ in range(N)]
    mine = ours(num, fraction, **settings).sample(AssignResult(gt_inds.expand(N, -1), overlaps.expand(N, -1)))
    for k, mask in enumerate((mine.pos, mine.neg)):
        a, b = mask.float().mean(0), torch.stack([d[k] for d in draws]).float().mean(0)
        assert ((a - b).abs() < 5 * (2 * .25 / N) ** .5).all()
        assert abs(a.sum() - b.sum()) < .01                                              # and as many in each draw


@live
def test_combined():
    from mmdet.registry import TASK_UTILS
    for seed in range(200):
        gt_inds, overlaps, num, fraction = case(seed)
        if (gt_inds > 0).sum() > int(num * fraction): continue                            # there MMDetection may have fewer positives
        pos, neg = theirs('CombinedSampler', gt_inds, overlaps, pos_sampler=dict(type='InstanceBalancedPosSampler'),
                          neg_sampler=dict(type='IoUBalancedNegSampler', floor_thr=.1, floor_fraction=.3), num=num, pos_fraction=fraction)
        ours = CombinedSampler(InstanceBalancedPosSampler(), IoUBalancedNegSampler(floor_thr=.1, floor_fraction=.3), num=num,
                               pos_fraction=fraction).sample(AssignResult(gt_inds, overlaps))
        assert torch.equal(ours.pos, pos) and ours.neg.sum() == neg.sum()
        assert (ours.neg & (overlaps < .1)).sum() == (neg & (overlaps < .1)).sum()
    assert TASK_UTILS.get('CombinedSampler') is not None


@live
def test_mask_pseudo_sampler():
    import mmdet.models.task_modules as modules
    from mmengine.structures import InstanceData
    for seed in range(30):
        gt_inds, overlaps, *_ = case(seed)
        masks, gts = torch.rand(60, 4, 4), torch.rand(5, 4, 4)
        out = modules.MaskPseudoSampler().sample(modules.AssignResult(5, gt_inds, overlaps, None), InstanceData(masks=masks), InstanceData(masks=gts))
        ours = MaskPseudoSampler().sample(AssignResult(gt_inds, overlaps))
        assert torch.equal(ours.pos.nonzero()[:, 0], out.pos_inds) and torch.equal(ours.neg.nonzero()[:, 0], out.neg_inds)
        assert ours.avg_factor == out.avg_factor and torch.equal(gts[ours.gt_inds][ours.pos], out.pos_gt_masks)


# Where we differ, on purpose

@live
def test_filling_up_draws_nobody_twice():
    "Ten positives are wanted, two objects have 20 and 1: the rule takes 6 + 1, and three more are drawn from 14 others, not from all 21."
    gt_inds = torch.tensor([1] * 20 + [2])
    fewer = [int(theirs('InstanceBalancedPosSampler', gt_inds, torch.ones(21), 20, .5)[0].sum()) for _ in range(40)]
    assert min(fewer) < 10
    ours = InstanceBalancedPosSampler(20, .5).sample(AssignResult(gt_inds.expand(40, -1), torch.ones(40, 21)))
    assert (ours.num_pos == 10).all()


@live
def test_no_floor_stays_no_floor():
    from mmdet.models.task_modules import IoUBalancedNegSampler as Theirs
    gt_inds, overlaps = torch.zeros(40).long(), torch.linspace(0, .4, 40)
    other, ours = Theirs(10, 0.), IoUBalancedNegSampler(10, 0.)
    import mmdet.models.task_modules as modules
    other._sample_neg(modules.AssignResult(0, gt_inds, overlaps, None), 10)
    ours.sample(AssignResult(gt_inds, overlaps))
    assert other.floor_thr == 0 and ours.floor_thr == -1
