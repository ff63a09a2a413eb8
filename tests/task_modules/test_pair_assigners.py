"ATSS, SimOTA, task-aligned, dynamic soft labels, Hungarian: memory, precision, faults, sentences."
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from learndet.core.registry import build
from learndet.structures.overlaps import bbox_overlaps
from learndet.task_modules.assigners.assign_result import NEGATIVE
from learndet.task_modules.assigners.atss import ATSSAssigner, PairAssigner, mean_and_std
from learndet.task_modules.assigners.dynamic_soft_label import DynamicSoftLabelAssigner, center_of_mass
from learndet.task_modules.assigners.hungarian import HungarianAssigner, TopkHungarianAssigner, match_tables
from learndet.task_modules.assigners.match_costs import (BBoxL1Cost, ClassificationCost, CrossEntropyLossCost, DiceCost, FocalLossCost, IoUCost)
from learndet.task_modules.assigners.max_iou_assigner import MaxIoUAssigner
from learndet.task_modules.assigners.sim_ota import SimOTAAssigner, class_cost, class_terms
from learndet.task_modules.assigners.task_aligned import TaskAlignedAssigner

POINTS = torch.tensor([[(j + .5) * 8, (i + .5) * 8, 8, 8] for i in range(8) for j in range(8)])
ANCHORS = torch.cat([POINTS[:, :2] - 12, POINTS[:, :2] + 12], dim=1)
GTS, LABELS = torch.tensor([[6., 6, 29, 31], [30, 32, 60, 62]]), torch.tensor([0, 2])
DETR = [FocalLossCost(weight=2.), BBoxL1Cost('xywh', weight=5.), IoUCost('giou', weight=2.)]
RULES = [(ATSSAssigner(9, alpha=.8), ANCHORS), (SimOTAAssigner(), POINTS), (TaskAlignedAssigner(6), ANCHORS), (DynamicSoftLabelAssigner(), POINTS),
         (HungarianAssigner(DETR), ANCHORS), (TopkHungarianAssigner(3), ANCHORS)]
each_rule = pytest.mark.parametrize('assigner, priors', RULES, ids=lambda x: type(x).__name__ if isinstance(x, PairAssigner) else '')


def predictions(assigner, dtype=torch.float32):
    g = torch.Generator().manual_seed(0)
    boxes, scores = GTS[torch.arange(64) % 2] + 3 * torch.randn(64, 4, generator=g), torch.rand(64, 3, generator=g)
    return dict(bbox_preds=boxes.to(dtype), cls_scores=scores.to(dtype)) | (dict(img_shape=(64, 64)) if 'Hungarian' in type(assigner).__name__ else {})


class Live(TorchDispatchMode):
    "The largest tensor that is made inside, in numbers."
    def __init__(self): super().__init__(); self.numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for t in out if isinstance(out, (tuple, list)) else [out]:
            if torch.is_tensor(t) and not t._is_view(): self.numel = max(self.numel, t.numel())
        return out


def peak(f):
    "Largest sum of live tensor bytes during a call, in MiB."
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as prof: f()
    live = most = 0
    for e in sorted((e for e in prof.profiler.kineto_results.events() if e.name() == '[memory]'), key=lambda e: e.start_ns()):
        live += e.nbytes()
        most = max(most, live)
    return most / 2 ** 20


def many(n, seed, size=2000., side=40.):
    g = torch.Generator().manual_seed(seed)
    xy = torch.rand(n, 2, generator=g) * size
    return torch.cat([xy, xy + 4 + torch.rand(n, 2, generator=g) * side], dim=1)


@pytest.mark.parametrize('assigner, more', [(MaxIoUAssigner(.5, .4), {}), (ATSSAssigner(9), dict(num_level_priors=[16_000, 4_000]))], ids=['MaxIoU', 'ATSS'])
def test_memory_does_not_grow_with_the_matrix(assigner, more):
    "1,700 objects x 20,000 priors: the matrix alone has 130 MiB (and is kept below 128, where there is room)."
    priors, gts = many(20_000, 0), many(1_700, 1)
    assert peak(lambda: assigner.assign(priors, gts, **more)) < 64
    with Live() as live: assigner.assign(priors[:2_000], many(20_000, 2), **({'num_level_priors': [1_500, 500]} if more else {}))
    assert live.numel <= 2 ** 23


def test_atss_is_the_same_in_pieces(monkeypatch):
    "Objects that do not fit into one piece of distances get the same candidates."
    priors, gts = many(3_000, 0), many(1_500, 1)
    whole = ATSSAssigner(5).assign(priors, gts).gt_inds
    parts = torch.stack([ATSSAssigner(5).assign(priors, g).gt_inds.clamp(max=1) for g in gts.split(500)]).amax(0)
    assert torch.equal(whole > 0, parts > 0)
    claimed = (whole > 0).nonzero()[:, 0]
    best = bbox_overlaps(priors[claimed], gts[whole[claimed] - 1], is_aligned=True)
    assert (best > 0).all()


@each_rule
def test_half_precision(assigner, priors):
    full, half = (assigner.assign(priors, GTS, LABELS, **predictions(assigner, dtype)) for dtype in (torch.float32, torch.bfloat16))
    assert half.max_overlaps.dtype == torch.float32 and (full.gt_inds == half.gt_inds).float().mean() > .85


@each_rule
def test_inside_autocast(assigner, priors):
    plain = assigner.assign(priors, GTS, LABELS, **predictions(assigner)).gt_inds
    with torch.autocast('cpu', torch.bfloat16): assert torch.equal(assigner.assign(priors, GTS, LABELS, **predictions(assigner)).gt_inds, plain)


@each_rule
def test_gradients_do_not_pass(assigner, priors):
    more = {k: t.requires_grad_() if torch.is_tensor(t) else t for k, t in predictions(assigner).items()}
    result = assigner.assign(priors, GTS, LABELS, **more)
    assert not result.max_overlaps.requires_grad and (result.assign_metrics is None or not result.assign_metrics.requires_grad)


@each_rule
@pytest.mark.parametrize('P, G', [(0, 2), (64, 0), (0, 0)])
def test_nothing_there(assigner, priors, P, G):
    more = {k: t[:P] if torch.is_tensor(t) else t for k, t in predictions(assigner).items()}
    result = assigner.assign(priors[:P], GTS[:G], LABELS[:G], **more)
    assert result.gt_inds.tolist() == [NEGATIVE] * P and result.labels.tolist() == [-1] * P and result.num_gts == G
    assert result.max_overlaps.shape == (P,) and (result.assign_metrics is None or result.assign_metrics.shape == (P,))


@each_rule
def test_a_prior_with_nan_predictions_is_nobodys(assigner, priors):
    more = predictions(assigner)
    more['bbox_preds'] = more['bbox_preds'].clone()
    more['bbox_preds'][18] = float('nan')
    if 'Hungarian' in type(assigner).__name__:
        with pytest.raises(ValueError, match='image 0 of the batch: .* not finite .query 18'): assigner.assign(priors, GTS, LABELS, **more)
    else: assert not assigner.assign(priors, GTS, LABELS, **more).max_overlaps.isnan().any()


def test_batches_that_do_not_fit():
    with pytest.raises(ValueError, match='different batches'): TaskAlignedAssigner(6).assign(ANCHORS.expand(3, -1, -1), GTS.expand(2, -1, -1))


@pytest.mark.parametrize('wrong, words', [
    (lambda: ATSSAssigner(0), 'topk is at least 1'), (lambda: TaskAlignedAssigner(0), 'at least 1'), (lambda: SimOTAAssigner(candidate_topk=0), 'at least 1'),
    (lambda: DynamicSoftLabelAssigner(topk=0), 'at least 1'), (lambda: TopkHungarianAssigner(0), 'at least 1'),
    (lambda: HungarianAssigner([]), 'match_costs is empty'), (lambda: BBoxL1Cost('cxcywh'), 'xyxy'), (lambda: CrossEntropyLossCost(use_sigmoid=False), 'use_sigmoid'),
    (lambda: ATSSAssigner(9).assign(ANCHORS, GTS, num_level_priors=[3]), 'add up to 3, but there are 64'),
    (lambda: ATSSAssigner(9, .8).assign(ANCHORS, GTS), 'gt_labels, bbox_preds and cls_scores'),
    (lambda: HungarianAssigner([DiceCost()]).assign(None, GTS, masks=torch.rand(4, 9), gt_masks=torch.rand(2, 9)), 'pass one of them')])
def test_faults_have_names(wrong, words):
    with pytest.raises(ValueError, match=words): wrong()


def test_equal_overlaps_all_reach_the_threshold():
    "A tiny object inside nine equal priors: their mean, rounded, may lie above them."
    for value in torch.linspace(.01, .2, 200):
        mean, std = mean_and_std(value.expand(9), torch.ones(9, dtype=torch.bool))
        assert value >= mean + std


@pytest.mark.parametrize('assigner', [SimOTAAssigner(), DynamicSoftLabelAssigner()], ids=str)
def test_useless_predictions_still_give_every_object_one(assigner):
    result = assigner.assign(POINTS, GTS, LABELS, bbox_preds=torch.zeros(64, 4), cls_scores=torch.full((64, 3), .01))
    assert result.gt_inds.bincount().tolist() == [62, 1, 1]


def test_one_hot_is_not_needed():
    g = torch.Generator().manual_seed(0)
    scores, labels = torch.rand(2, 50, 80, generator=g), torch.randint(80, (2, 6), generator=g)
    with Live() as live: cost = class_cost(*class_terms(scores), labels)
    assert live.numel <= 2 * 50 * 80
    dense = torch.nn.functional.binary_cross_entropy(scores[:, None].expand(-1, 6, -1, -1), torch.nn.functional.one_hot(labels, 80)[:, :, None].expand(-1, -1, 50, -1).float(),
                                                     reduction='none').sum(-1)
    torch.testing.assert_close(cost, dense)


def test_masks_without_pixels_have_the_centre_of_their_box():
    centers, there = center_of_mass(torch.zeros(1, 5, 5))
    assert not there and centers.isfinite().all()
    assigner, more = DynamicSoftLabelAssigner(), predictions(None)
    assert torch.equal(assigner.assign(POINTS, GTS, LABELS, **more, gt_masks=torch.zeros(2, 64, 64)).gt_inds, assigner.assign(POINTS, GTS, LABELS, **more).gt_inds)


def test_one_copy_each_way():
    "The Hungarian assigner goes to the CPU once for the whole batch, however many images there are."
    class Copies(TorchDispatchMode):
        n = 0
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            assert not str(func).startswith(('aten.nonzero', 'aten._local_scalar_dense', 'aten.item', 'aten.is_nonzero'))
            return func(*args, **(kwargs or {}))
    with Copies(): codes = match_tables(torch.rand(5, 9, 3), torch.ones(5, 3, dtype=torch.bool), torch.ones(5, 9, dtype=torch.bool))
    assert codes.clamp(max=1).sum(1).tolist() == [3] * 5


def test_from_a_config():
    "MMDetection's dicts, leaves first."
    cost = [dict(type='FocalLossCost', weight=2.0), dict(type='BBoxL1Cost', weight=5.0, box_format='xywh'), dict(type='IoUCost', iou_mode='giou', weight=2.0)]
    built = build(dict(type='HungarianAssigner', match_costs=cost))
    assert str(built.match_costs) == str(DETR)
    assert str(build(dict(type='ATSSAssigner', topk=9))) == 'ATSSAssigner(topk=9, alpha=None, ignore_iof_thr=-1)'
    assert build(dict(type='SimOTAAssigner', center_radius=2.5)).candidate_topk == 10
    assert build(dict(type='TaskAlignedAssigner', topk=13, iou_calculator=dict(type='BboxOverlaps2D'))).topk == 13
    assert build(dict(type='DynamicSoftLabelAssigner', topk=13)).soft_center_radius == 3.
    assert build(dict(type='TopkHungarianAssigner', topk=8, cls_cost=dict(type='ClassificationCost'))).match_costs[0].weight == ClassificationCost().weight


def test_atss_says_why():
    priors = torch.tensor([[0., 0, 10, 10], [8, 0, 18, 10], [12, 12, 40, 40], [50, 50, 60, 60]])
    trace = ATSSAssigner(3).trace(priors, torch.tensor([[0., 0, 12, 12]]), prior_valid=torch.tensor([True, True, True, False]))
    assert trace.why(0) == "prior 0 is positive for object 0: IoU 0.694 >= mean + std 0.655 of object 0's 3 candidates, centre inside"
    assert trace.why(1) == "prior 1 is negative: IoU 0.196 < mean + std 0.655 of object 0's 3 candidates"
    assert trace.why(3) == 'prior 3 is ignored: it is not a valid prior' == trace.why_not(3, 0)
    assert list(trace.steps) == ['start', 'candidates', 'threshold', 'center', 'conflict']
    assert ATSSAssigner(1).trace(priors, torch.tensor([[0., 0, 12, 12]])).why_not(3, 0) == 'prior 3 and object 0: 69.3 pixels between centres, 1 of its level are closer'
