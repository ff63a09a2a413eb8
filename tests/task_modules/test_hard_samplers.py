"Balanced and hard samplers: nothing waits for the device, a batch is its images, losses of any kind, one graph."
import sys
from pathlib import Path

import pytest
import torch

from learndet.task_modules.assigners.assign_result import IGNORE, NEGATIVE, AssignResult
from learndet.task_modules.samplers.balanced_sampling import (CombinedSampler, InstanceBalancedPosSampler, IoUBalancedNegSampler,
                                                              place_in_group)
from learndet.task_modules.samplers.hard_examples import OHEMSampler, ScoreHLRSampler, hierarchical_rank
from learndet.task_modules.samplers.sampling import RandomSampler, pick

sys.path.insert(0, str(Path(__file__).parents[1] / 'laws'))
from test_sync_free import NoSync

SAMPLERS = dict(objects=InstanceBalancedPosSampler(24, .5, neg_pos_ub=2), iou=IoUBalancedNegSampler(24, .25, floor_thr=.1, floor_fraction=.3),
                no_floor=IoUBalancedNegSampler(24, .25), ohem=OHEMSampler(24, .25), hlr=ScoreHLRSampler(24, .25),
                both=CombinedSampler(InstanceBalancedPosSampler(), OHEMSampler(), num=24, pos_fraction=.5))


def batch(B=2, P=80, seed=0):
    torch.manual_seed(seed)
    gt_inds = torch.randint(-1, 4, (B, P)) * (torch.rand(B, P) < .4)
    xy = torch.rand(B, P, 2) * 40
    given = dict(losses=torch.rand(B, P), scores=torch.rand(B, P), bboxes=torch.cat([xy, xy + 12], dim=-1))
    return AssignResult(gt_inds, torch.rand(B, P) * (gt_inds >= 0)), given


@pytest.mark.parametrize('name', SAMPLERS)
def test_numbers_and_kinds(name):
    sampler = SAMPLERS[name]
    for seed in range(30):
        assigned, given = batch(seed=seed)
        result = sampler.sample(assigned, **{n: given[n] for n in sampler.needs})
        assert not (result.pos & result.neg).any()
        assert (assigned.gt_inds[result.pos] > 0).all() and (assigned.gt_inds[result.neg] == NEGATIVE).all()
        there = [(assigned.gt_inds > 0).sum(1), (assigned.gt_inds == NEGATIVE).sum(1)]
        wanted = there[0].clamp(max=int(sampler.num * sampler.pos_fraction))
        assert torch.equal(result.num_pos, wanted)
        most = sampler.num - wanted
        if sampler.neg_pos_ub >= 0: most = most.minimum(wanted.clamp(min=1) * sampler.neg_pos_ub)
        assert torch.equal(result.num_neg, there[1].minimum(most))
        assert result.label_weights().isfinite().all() and (result.label_weights()[assigned.gt_inds == IGNORE] == 0).all()


@pytest.mark.parametrize('name', [n for n in SAMPLERS if n != 'hlr'])
def test_nothing_waits_for_the_device(name):
    "Score-HLR suppresses boxes, and suppression waits once; it is left out here."
    assigned, given = batch()
    with NoSync():
        result = SAMPLERS[name].sample(assigned, **{n: given[n] for n in SAMPLERS[name].needs})
        result.select(16), result.label_weights()


def test_only_suppression_waits_in_score_hlr():
    assigned, given = batch()
    sampler, negative = SAMPLERS['hlr'], assigned.gt_inds == NEGATIVE
    with NoSync():
        rank = hierarchical_rank(torch.zeros_like(assigned.gt_inds), given['scores'], negative)
        neg = sampler._sample_neg(assigned, negative, torch.full((2, 1), 9), given['losses'], rank=rank, ranked=negative)
        sampler.weights(neg, negative, rank, negative, given['losses'])


@pytest.mark.parametrize('name', ['ohem', 'hlr'])
def test_a_batch_is_its_images(name):
    "Where no lots are needed: as many high scores as wanted, and no positive."
    sampler = SAMPLERS[name]
    assigned, given = batch(3)
    assigned.gt_inds = assigned.gt_inds.clamp(max=0)
    given['scores'] = given['scores'] * .9 + .1
    given = {n: given[n] for n in sampler.needs}
    together = sampler.sample(assigned, **given)
    for b in range(3):
        alone = sampler.sample(AssignResult(assigned.gt_inds[b], assigned.max_overlaps[b]), **{n: t[b] for n, t in given.items()})
        assert torch.equal(together.neg[b], alone.neg)
        torch.testing.assert_close(together.label_weights()[b], alone.label_weights())


@pytest.mark.parametrize('losses', [torch.zeros(1, 6), torch.tensor([[float('nan'), 1, 2, float('inf'), 0, 3]]), torch.full((1, 6), -1.)])
def test_losses_of_any_kind(losses):
    result = OHEMSampler(3, 0.).sample(AssignResult(torch.zeros(1, 6).long(), torch.zeros(1, 6)), losses=losses)
    assert result.num_neg == 3 and not result.neg[losses.isnan()].any()
    xy = torch.arange(6.)[None, :, None].expand(1, 6, 2) * 30
    weights = ScoreHLRSampler(3, 0.).sample(AssignResult(torch.zeros(1, 6).long(), torch.zeros(1, 6)), scores=torch.rand(1, 6),
                                            bboxes=torch.cat([xy, xy + 9], dim=-1), losses=losses.nan_to_num(0, posinf=9).clamp(min=0)).label_weights()
    assert weights.isfinite().all() and (weights >= 0).all()


def test_no_gradient_passes():
    assigned, given = batch()
    given = {n: t.requires_grad_() for n, t in given.items()}
    for name in ('ohem', 'hlr'):
        result = SAMPLERS[name].sample(assigned, **{n: given[n] for n in SAMPLERS[name].needs})
        assert not result.label_weights().requires_grad


def test_the_place_in_a_group():
    torch.manual_seed(0)
    for groups in (torch.randint(-1, 4, (3, 40)), torch.zeros(2, 7).long(), torch.zeros(2, 0).long()):
        keys = torch.rand(groups.shape)
        larger = (keys[:, None] > keys[..., None]) & (groups[:, None] == groups[..., None])
        assert torch.equal(place_in_group(groups, keys), larger.sum(-1))


def test_ties_are_drawn_by_all():
    "Five equal losses: three of them are drawn, no more."
    assert pick(torch.full((1, 5), .5), torch.ones(1, 5, dtype=torch.bool), 3, most=3).sum() == 3


@pytest.mark.parametrize('name', ['objects', 'iou', 'ohem'])
def test_one_graph(name):
    assigned, given = batch()
    given = {n: given[n] for n in SAMPLERS[name].needs}
    compiled = torch.compile(lambda a, g: SAMPLERS[name].sample(AssignResult(a, assigned.max_overlaps), **g).neg, fullgraph=True, backend='aot_eager')
    assert torch.equal(compiled(assigned.gt_inds, given).sum(1), SAMPLERS[name].sample(assigned, **given).num_neg)


def test_a_part_without_numbers_says_so():
    assigned, _ = batch()
    with pytest.raises(ValueError, match='InstanceBalancedPosSampler has no num'): InstanceBalancedPosSampler().sample(assigned)
    with pytest.raises(ValueError, match='CombinedSampler needs losses'): SAMPLERS['both'].sample(assigned)
    with pytest.raises(ValueError, match='floor_thr=-0.5'): IoUBalancedNegSampler(8, .5, floor_thr=-.5)
    with pytest.raises(ValueError, match='num=0'): RandomSampler(0, .5)
