"The loops that the benchmark of the task modules compares with mean the same as the exported rules."
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / 'benchmarks'))
import loops
from task_modules import RULES, problem, random_objects

from learndet.task_modules.assigners.assign_result import AssignResult
from learndet.task_modules.samplers.balanced_sampling import InstanceBalancedPosSampler, IoUBalancedNegSampler
from learndet.task_modules.samplers.hard_examples import OHEMSampler, ScoreHLRSampler
from learndet.task_modules.samplers.sampling import RandomSampler


@pytest.mark.parametrize('name', RULES)
@pytest.mark.parametrize('seed', range(6))
def test_assigners(name, seed):
    "A code may differ where two sums are added up in another order; so rarely that it does not happen here."
    data = problem((96, 128), [8, 16], batch=2, objects=5, classes=6, seed=seed)
    ours, loop = RULES[name](data)
    codes = ours().gt_inds
    assert torch.equal(codes, loop()) and (codes > 0).any()


def drawn(name, B=2, P=120):
    torch.manual_seed(0)
    gt_inds, scores, losses = torch.randint(-1, 4, (B, P)) * (torch.rand(B, P) < .5), torch.rand(B, P), torch.rand(B, P)
    assigned, bboxes = AssignResult(gt_inds, torch.rand(B, P) * (gt_inds >= 0)), random_objects(B, P, (64, 64))
    negatives = dict(iou=lambda b, rows, num: loops.balanced_negatives(assigned.max_overlaps[b], rows, num),
                     hlr=lambda b, rows, num: loops.score_hlr_negatives(bboxes[b], scores[b], rows, num)).get(name)
    if name == 'ohem': return assigned, OHEMSampler(24, .5).sample(assigned, losses=losses), loops.ohem(assigned, losses, 24, .5)
    sampler = dict(random=RandomSampler, objects=InstanceBalancedPosSampler, iou=IoUBalancedNegSampler, hlr=ScoreHLRSampler)[name](24, .5)
    positives = dict(positives=loops.balanced_positives) if name == 'objects' else {}
    given = {k: v for k, v in dict(scores=scores, bboxes=bboxes, losses=losses).items() if k in sampler.needs}
    return assigned, sampler.sample(assigned, **given), loops.random_sample(assigned, 24, .5, negatives=negatives, **positives)


@pytest.mark.parametrize('name', ['random', 'objects', 'iou', 'ohem', 'hlr'])
def test_samplers(name):
    "The same numbers of both kinds; where no lot is drawn the same priors; of each object, of each interval, as many."
    assigned, ours, theirs = drawn(name)
    for b, (pos, neg) in enumerate(theirs):
        assert (ours.num_pos[b], ours.num_neg[b]) == (len(pos), len(neg)) and len(pos) and len(neg)
        assert (assigned.gt_inds[b, pos] > 0).all() and (assigned.gt_inds[b, neg] == 0).all()
        if name == 'ohem': assert set(ours.pos[b].nonzero()[:, 0].tolist()) == set(pos.tolist())
        if name in ('ohem', 'hlr'): assert set(ours.neg[b].nonzero()[:, 0].tolist()) == set(neg.tolist())
        if name == 'objects':
            counts = [[int((assigned.gt_inds[b, rows] == i).sum()) for i in (1, 2, 3)] for rows in (ours.pos[b].nonzero()[:, 0], pos)]
            assert all(abs(a - c) <= 2 for a, c in zip(*counts))
