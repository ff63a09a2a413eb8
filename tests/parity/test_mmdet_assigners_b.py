"""ATSS, SimOTA, task-aligned, dynamic soft labels, Hungarian: the same answers as MMDetection 3.3, where they should be.

They differ on purpose:
- ATSS: priors in ignored regions are never candidates (MMDetection: they may be, where a level has too few others); a prior needs an
  IoU above 0; a single candidate has deviation 0 (MMDetection: nan, so that it is never positive).
- SimOTA, soft labels: an object takes only priors of its own region (MMDetection: of any object's); soft labels: a mask without pixels has
  the centre of its box (MMDetection: the corner of the picture).
- Everywhere `max_overlaps` is 0 where a prior has no object (MMDetection: -1e8, -1e5 or None).
"""
import json
import os
from pathlib import Path

import mmdet_assigner_cases_b as cases
import mmdet_reference
import pytest
import torch
from make_golden_mmdet_assigners_b import RULES

from learndet.structures.overlaps import bbox_overlaps
from learndet.task_modules.assigners.assign_result import IGNORE, depth_inside
from learndet.task_modules.assigners.atss import ATSSAssigner
from learndet.task_modules.assigners.hungarian import TopkHungarianAssigner
from learndet.task_modules.assigners.sim_ota import SimOTAAssigner, near_center

GOLDEN = json.loads((Path(__file__).parent / 'golden_mmdet_assigners_b.json').read_text(encoding='utf-8'))
SEEDS = range(240)


@pytest.fixture(scope='module')
def mmdet():
    if not mmdet_reference.available(): pytest.skip('MMDetection 3.3 is not here: LEARNDET_MMDET names no folder with it')
    return mmdet_reference.load()


pytestmark = pytest.mark.filterwarnings('ignore')


def takes_its_own_only(name, c):
    "Whether MMDetection, too, gives every object priors of its own region only, before and after conflicts are settled, without ties."
    if len(c['gts']) == 0 or len(c['points']) == 0: return True
    more = dict(gt_masks=cases._large(c['gt_masks'])) if name == 'soft_label_masks' else {}
    scores = c['scores'] if name == 'sim_ota' else c['logits']
    t = cases.OURS['sim_ota' if name == 'sim_ota' else 'soft_label']().trace(c['points'], c['gts'], c['labels'], bbox_preds=c['bbox_preds'],
                                                                           cls_scores=scores, **more)
    if name == 'soft_label_masks' and (c['gt_masks'].sum((1, 2)) == 0).any(): return False
    anybody = t.candidate.any(0)
    cost = torch.where(anybody, sum(t.parts.values()), torch.inf)                             # (G, P): as MMDetection's
    taken = torch.zeros_like(t.candidate)
    for i, k in enumerate(t.k.tolist()):
        values, places = cost[i].sort()
        if k < len(values) and values[k] - values[k - 1] <= 1e-6 * values[k - 1]: return False      # 100,000 + c has few digits left for c
        taken[i, places[:k]] = True
    taken &= anybody
    conflict = taken.sum(0) > 1
    first, second = (cost.T.sort(dim=1).values[conflict, :2].T if len(cost) > 1 else (cost[0, :0], cost[0, :0]))
    foreign = (taken & ~t.candidate).any() or not t.candidate[cost.argmin(0)[conflict], conflict].all()
    return not foreign and not (second - first <= 1e-6 * first).any()


def region(name, c):
    "(G, P): where an object may take priors."
    inside = depth_inside(c['points'][:, :2], c['gts'][:, None]) > 0
    return inside | near_center(c['points'], c['gts'][:, None], 2.5) if name == 'sim_ota' else inside


def check(name, seed, c, ours, wanted):
    "True if the answers had to be equal (and were)."
    if name in ('sim_ota', 'soft_label', 'soft_label_masks'):
        positive = (ours > 0).nonzero()[:, 0]
        assert region(name, c)[ours[positive] - 1, positive].all()
        if not takes_its_own_only(name, c): return False
    if name == 'atss_regions' and len(c['regions']) and len(c['anchors']):
        deep = bbox_overlaps(c['anchors'], c['regions'], mode='iof').amax(1) > .5
        assert (ours[deep] == IGNORE).all()
        if any(int((~level).sum()) < 4 for level in deep.split(c['levels'])): return False
    assert torch.equal(ours, wanted), f'{name}, case {seed}: priors {(ours != wanted).nonzero()[:, 0].tolist()}'
    return True


@pytest.mark.parametrize('name', RULES)
def test_equal_to_mmdetection(mmdet, name):
    compared = 0
    for seed in SEEDS if name not in ('sim_ota', 'soft_label', 'soft_label_masks') else range(540):
        c = cases.case(seed)
        if name == 'topk_hungarian' and len(c['points']) == 0: continue                       # there it is an error
        ours, theirs = cases.ours(name, c), cases.theirs(name, c)
        equal = check(name, seed, c, ours.gt_inds, theirs.gt_inds)
        compared += equal
        positive = ours.gt_inds > 0
        if equal and theirs.labels is not None: assert torch.equal(ours.labels[positive], theirs.labels[positive])
        if equal and theirs.max_overlaps is not None and len(theirs.max_overlaps) == len(positive):
            torch.testing.assert_close(ours.max_overlaps[positive], theirs.max_overlaps[positive])
        if name == 'task_aligned': torch.testing.assert_close(ours.assign_metrics, theirs.assign_metrics)
        if name == 'topk_hungarian' and len(c['gts']): torch.testing.assert_close(ours.assign_metrics[positive], theirs.assign_metrics)
    assert compared >= 200, compared


@pytest.mark.parametrize('name, options', [(name, o) for name, each in cases.COSTS.items() for o in each])
def test_costs_equal_to_mmdetection(mmdet, name, options):
    for seed in range(270):
        c = cases.case(seed)
        if name == 'BinaryFocalLossCost' and len(c['gts']) == 0: continue                     # there it is an error
        torch.testing.assert_close(cases.our_cost(name, options, c), cases.their_cost(name, options, c), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('name', RULES)
def test_equal_to_stored_answers(name):
    compared = 0
    for seed, wanted in GOLDEN['assigned'][name].items():
        c = cases.case(int(seed))
        compared += check(name, seed, c, cases.ours(name, c).gt_inds, torch.tensor(wanted, dtype=torch.long))
    assert compared >= 4, compared


@pytest.mark.parametrize('name', cases.COSTS)
def test_costs_equal_to_stored_numbers(name):
    for options, wanted in zip(cases.COSTS[name], GOLDEN['costs'][name]):
        torch.testing.assert_close(cases.our_cost(name, options, cases.case(2))[:6].flatten(), torch.tensor(wanted), rtol=1e-3, atol=2e-4)


def test_simota_with_equal_predictions_gives_as_many(mmdet):
    "All scores and boxes alike, as at the start: which of equal priors it is may differ, how many each object gets may not."
    from mmdet.models.task_modules.assigners import SimOTAAssigner as Theirs
    from mmengine.structures import InstanceData
    p, gts, labels = cases.points(), torch.tensor([[4., 4, 30, 40], [50, 50, 80, 78]]), torch.tensor([0, 1])
    boxes, scores = torch.tensor([10., 10, 60, 60]).expand(len(p), 4), torch.full((len(p), 4), .01)
    ours = SimOTAAssigner().assign(p, gts, labels, bbox_preds=boxes, cls_scores=scores).gt_inds
    theirs = Theirs().assign(InstanceData(priors=p, bboxes=boxes, scores=scores), InstanceData(bboxes=gts, labels=labels)).gt_inds
    assert ours.bincount().tolist() == theirs.bincount().tolist() == [len(p) - 3, 2, 1]


def test_where_atss_differs(mmdet):
    from mmdet.models.task_modules.assigners import ATSSAssigner as Theirs
    from mmengine.structures import InstanceData
    def both(priors, gts, levels, topk=9, regions=None, **options):
        theirs = Theirs(topk, **options).assign(InstanceData(priors=priors), levels, InstanceData(bboxes=gts, labels=torch.zeros(len(gts)).long()),
                                               None if regions is None else InstanceData(bboxes=regions))
        return ATSSAssigner(topk, **options).assign(priors, gts, num_level_priors=levels, gt_bboxes_ignore=regions).gt_inds.tolist(), theirs.gt_inds.tolist()
    gts = torch.tensor([[0., 0, 20, 20]])
    assert both(torch.tensor([[2., 2, 18, 18]]), gts, [1]) == ([1], [0])                                # one candidate
    flat = torch.tensor([[5., 5, 5, 15], [6, 6, 14, 6]])
    assert both(flat, gts, [2]) == ([0, 0], [1, 1])                                                     # nothing overlaps anything
    priors = torch.tensor([[0., 0, 20, 20], [2, 2, 20, 22], [30, 30, 50, 50], [60, 60, 80, 80]])
    ours, theirs = both(priors, gts, [4], regions=torch.tensor([[-5., -5, 10, 30], [1, 1, 30, 40]]), ignore_iof_thr=.4)
    assert ours == [-1, -1, 0, 0] and theirs != ours                                                    # positive in an ignored region


def test_where_one_to_many_differs(mmdet):
    "Two queries for three objects: here two objects get one, there nobody does."
    from mmdet.models.task_modules.assigners import TopkHungarianAssigner as Theirs
    gts, labels = torch.tensor([[0., 0, 20, 20], [30, 30, 50, 50], [60, 60, 80, 80]]), torch.tensor([0, 1, 2])
    boxes, scores = gts[:2] + 1, torch.rand(2, 3, generator=torch.Generator().manual_seed(0))
    assert TopkHungarianAssigner(2).assign(boxes, gts, labels, bbox_preds=boxes, cls_scores=scores, img_shape=(100, 100)).gt_inds.tolist() == [1, 2]
    assert Theirs(2).assign(scores, boxes, gts, labels, dict(img_shape=(100, 100))).gt_inds.tolist() == [0, 0]
