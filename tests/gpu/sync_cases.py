"""Everything on the training path that may not wait for a GPU, as functions to be called on any device.

`CASES[name](device)` builds its inputs there and returns a function without arguments: the part that must not wait.
"""
import sys
from pathlib import Path

import torch

from learndet.task_modules.assigners.approx_max_iou_assigner import ApproxMaxIoUAssigner
from learndet.task_modules.assigners.assign_result import AssignResult
from learndet.task_modules.assigners.atss import ATSSAssigner
from learndet.task_modules.assigners.center_region_assigner import CenterRegionAssigner, RegionAssigner
from learndet.task_modules.assigners.dynamic_soft_label import DynamicSoftLabelAssigner
from learndet.task_modules.assigners.max_iou_assigner import MaxIoUAssigner
from learndet.task_modules.assigners.points_and_grids import GridAssigner, PointAssigner, UniformAssigner
from learndet.task_modules.assigners.sim_ota import SimOTAAssigner
from learndet.task_modules.assigners.task_aligned import TaskAlignedAssigner
from learndet.task_modules.coders.bucketing_coder import BucketingBBoxCoder
from learndet.task_modules.coders.delta_xywh_coder import DeltaXYWHBBoxCoder, LegacyDeltaXYWHBBoxCoder
from learndet.task_modules.coders.distance_point_coder import DistancePointBBoxCoder
from learndet.task_modules.coders.pseudo_coder import PseudoBBoxCoder
from learndet.task_modules.coders.tblr_coder import TBLRBBoxCoder
from learndet.task_modules.coders.yolo_coder import YOLOBBoxCoder
from learndet.task_modules.losses.cross_entropy import CrossEntropyLoss
from learndet.task_modules.losses.gradient_harmonizing import GHMR
from learndet.task_modules.losses.iou_losses import BoundedIoULoss, CIoULoss, DIoULoss, GIoULoss, IoULoss
from learndet.task_modules.losses.l1 import L1Loss, MSELoss, SmoothL1Loss
from learndet.task_modules.losses.more_box_losses import BalancedL1Loss, EIoULoss, SIoULoss
from learndet.task_modules.prior_generators.anchor_generator import AnchorGenerator
from learndet.task_modules.prior_generators.point_generator import MlvlPointGenerator
from learndet.task_modules.samplers.balanced_sampling import CombinedSampler, InstanceBalancedPosSampler, IoUBalancedNegSampler
from learndet.task_modules.samplers.hard_examples import OHEMSampler
from learndet.task_modules.samplers.sampling import PseudoSampler, RandomSampler

sys.path.insert(0, str(Path(__file__).parents[1] / 'laws'))
from loss_rows import ROWS, call                                                              # noqa: E402

SIZES = [(8, 8), (4, 4)]
POINTS = torch.cat(MlvlPointGenerator([8, 16]).grid_priors(SIZES, with_stride=True))          # (80, 4)
ANCHORS = torch.cat([POINTS[:, :2] - 2 * POINTS[:, 2:], POINTS[:, :2] + 2 * POINTS[:, 2:]], dim=1)
P, K = len(POINTS), 3


def boxes(*shape): return torch.cat([xy := torch.rand(*shape, 2) * 40, xy + 4 + torch.rand(*shape, 2) * 24], dim=-1)


def contract(device, B=2, G=4, I=2):
    "Objects, classes, which are real, ignored regions, which are real, priors that count."
    torch.manual_seed(0)
    rows = boxes(B, G), torch.randint(K, (B, G)), torch.rand(B, G) < .7, boxes(B, I), torch.rand(B, I) < .5, torch.rand(B, P) < .9
    return [t.to(device) for t in rows]


def assigning(assigner, priors=ANCHORS, predictions=False, G=4, **more):
    "A case: `assign` for a batch."
    def prepare(device):
        args, given = contract(device, G=G), {k: v.to(device) if torch.is_tensor(v) else v for k, v in more.items()}
        if predictions: given |= dict(bbox_preds=boxes(2, P).to(device), cls_scores=torch.rand(2, P, K).to(device))
        on_device = priors.to(device)
        return lambda: assigner.assign(on_device, *args, **given)
    return prepare


layout = dict(featmap_sizes=SIZES, num_level_anchors=[64, 16], anchor_scale=4., anchor_strides=[8, 16])
rules = dict(pos_iou_thr=.5, neg_iou_thr=.4)
CASES = {
    'MaxIoU': assigning(MaxIoUAssigner(**rules, ignore_iof_thr=.5)),
    'MaxIoU, first only': assigning(MaxIoUAssigner(.5, (.1, .4), gt_max_assign_all=False, ignore_iof_thr=.5, ignore_wrt_candidates=False)),
    'MaxIoU, no objects': assigning(MaxIoUAssigner(**rules), G=0),
    'MaxIoU, twins': assigning(MaxIoUAssigner(**rules, perm_repeat_gt_cfg=dict(iou_thr=.7))),
    'ApproxMaxIoU': assigning(ApproxMaxIoUAssigner(**rules), approxs=torch.stack([ANCHORS, ANCHORS + 1], dim=1)),
    'Grid': assigning(GridAssigner(**rules), responsible_flags=torch.ones(2, P, dtype=torch.bool)),
    'Point': assigning(PointAssigner(), POINTS),
    'Uniform': assigning(UniformAssigner(.15, .7), bbox_preds=boxes(2, P)),
    'CenterRegion': assigning(CenterRegionAssigner(.2, .2)), 'Region': assigning(RegionAssigner(), **layout),
    'ATSS': assigning(ATSSAssigner(5, ignore_iof_thr=.5), num_level_priors=[64, 16]),
    'DDOD': assigning(ATSSAssigner(5, alpha=.8), predictions=True, num_level_priors=[64, 16]),
    'SimOTA': assigning(SimOTAAssigner(), POINTS, predictions=True), 'TaskAligned': assigning(TaskAlignedAssigner(6), predictions=True),
    'DynamicSoftLabel': assigning(DynamicSoftLabelAssigner(), POINTS, predictions=True)}


def sampling(sampler):
    "A case: `sample` and what heads ask of its result."
    def prepare(device):
        torch.manual_seed(0)
        gt_inds = torch.randint(-1, 4, (2, P)) * (torch.rand(2, P) < .4)
        assigned = AssignResult(gt_inds.to(device), (torch.rand(2, P) * (gt_inds >= 0)).to(device))
        given = {name: torch.rand(2, P).to(device) for name in sampler.needs}
        def part():
            result = sampler.sample(assigned, **given)
            return result.select(32), result.label_weights(2.), result.num_pos, result.avg_factor
        return part
    return prepare


CASES |= {type(s).__name__: sampling(s) for s in (
    PseudoSampler(), RandomSampler(24, .5, neg_pos_ub=3), InstanceBalancedPosSampler(24, .5), OHEMSampler(24, .25),
    IoUBalancedNegSampler(24, .25, floor_thr=.1, floor_fraction=.3), CombinedSampler(InstanceBalancedPosSampler(), IoUBalancedNegSampler(), 24, .5))}


def coding(coder, priors=ANCHORS, *between, **more):
    "A case: encode, then decode, clipped to two sizes of images and to one."
    def prepare(device):
        torch.manual_seed(0)
        p, targets, shapes = priors.to(device), boxes(2, P).to(device), torch.tensor([[64, 80], [50, 70]]).to(device)
        extra = [t.to(device) for t in between]
        def part():
            coded = coder.encode(p, targets, *extra, **more)
            return [coder.decode(p, coded, *extra, shape) for shape in (shapes, (64, 80), [(64, 80), (50, 70)])]
        return part
    return prepare


def bucketing(device):
    p, targets, coder = ANCHORS.to(device), boxes(2, P).to(device), BucketingBBoxCoder(6, 1.7)
    def part():
        offsets, _, labels, _ = coder.encode(p, targets)
        return coder.decode(p, (labels, offsets), (64, 80))
    return part


CASES |= {'DeltaXYWH': coding(DeltaXYWHBBoxCoder(target_stds=(.1, .1, .2, .2))), 'LegacyDeltaXYWH': coding(LegacyDeltaXYWHBBoxCoder()),
          'DistancePoint': coding(DistancePointBBoxCoder(), POINTS[:, :2]), 'TBLR': coding(TBLRBBoxCoder([1., 2., 3., 4.])),
          'YOLO': coding(YOLOBBoxCoder(), ANCHORS, POINTS[:, 2]), 'PseudoCoder': coding(PseudoBBoxCoder()), 'Bucketing': bucketing}


def placing(generator):
    "A case: priors of an image size that was not met before, and which of them count."
    def prepare(device):
        shapes = torch.tensor([[64, 64], [50, 60]])                     # as a head makes them, from the metainfo
        def part():
            generator._kept.clear()
            priors = torch.cat(generator.grid_priors(SIZES, device=device))
            valid = generator.valid_flags(SIZES, shapes, device=device)
            return generator.inside_flags(priors, valid, shapes, allowed_border=0)
        return part
    return prepare


CASES |= {'anchors': placing(AnchorGenerator([8, 16], [1.], [4.])), 'points': placing(MlvlPointGenerator([8, 16]))}


def backward(loss):
    "Gradients, where there is an engine for them: a tensor that only says it is on a GPU has none."
    if loss.device.type == 'cpu' or torch.cuda.is_available(): loss.backward()


def losing(make, inputs, by_row):
    "A case: a loss over rows and its gradient, with and without weights and a denominator on the device."
    def prepare(device):
        g = torch.Generator().manual_seed(0)
        move = lambda t: tuple(map(move, t)) if isinstance(t, tuple) else t.to(device)
        pred, target = map(move, inputs(g, 6))
        weight, loss = torch.rand(6 if by_row else pred.shape, generator=g).to(device), make()
        if isinstance(loss, torch.nn.Module): loss = loss.to(device)
        pred.requires_grad_()
        def part():
            backward(call(loss, pred, target))
            backward(call(loss, pred, target, weight, avg_factor=weight.sum()))
            return call(loss, pred, target, weight, reduction_override='none')
        return part
    return prepare


CASES |= {f'loss: {name}': losing(*row) for name, row in ROWS.items()}
corners = lambda g, n: (torch.rand(n, 4, generator=g).cumsum(1), torch.rand(n, 4, generator=g).cumsum(1))
CASES |= {f'loss: {make.__name__}': losing(make, corners, False) for make in (
    IoULoss, GIoULoss, DIoULoss, CIoULoss, BoundedIoULoss, EIoULoss, SIoULoss, L1Loss, SmoothL1Loss, MSELoss, BalancedL1Loss, GHMR)}
CASES['loss: class weights'] = losing(lambda: CrossEntropyLoss(class_weight=[1., 2., 1., 1.]), ROWS['cross entropy'][1], True)
CASES['loss: class weights, sigmoid'] = losing(lambda: CrossEntropyLoss(use_sigmoid=True, class_weight=[1., 2., 1., 1.]),
                                               ROWS['sigmoid cross entropy'][1], True)
