"Nothing on the training path waits for the device: no operation whose shape or control flow depends on a value."
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from learndet.task_modules.assigners.max_iou_assigner import MaxIoUAssigner
from learndet.task_modules.coders.bucketing_coder import BucketingBBoxCoder
from learndet.task_modules.coders.delta_xywh_coder import DeltaXYWHBBoxCoder, DeltaXYWHBBoxCoderForGLIP, LegacyDeltaXYWHBBoxCoder
from learndet.task_modules.coders.distance_point_coder import DistancePointBBoxCoder
from learndet.task_modules.coders.pseudo_coder import PseudoBBoxCoder
from learndet.task_modules.coders.tblr_coder import TBLRBBoxCoder
from learndet.task_modules.coders.yolo_coder import YOLOBBoxCoder
from learndet.task_modules.prior_generators.anchor_generator import AnchorGenerator
from learndet.task_modules.prior_generators.point_generator import MlvlPointGenerator
from learndet.task_modules.prior_generators.yolo_anchor_generator import YOLOAnchorGenerator
from learndet.task_modules.samplers.sampling import PseudoSampler, RandomSampler

WAITS = ('aten.nonzero', 'aten._local_scalar_dense', 'aten.masked_select', 'aten.unique', 'aten._unique', 'aten.item',
         'aten.is_nonzero', 'aten.equal.', 'aten.repeat_interleave.Tensor', 'aten.bincount')


class NoSync(TorchDispatchMode):
    "Raise on any operation that would make the host wait for a GPU."
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if str(func).startswith(WAITS): raise AssertionError(f'{func} waits for the device')
        if str(func).startswith(('aten.index.', 'aten.index_put')):
            if any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in args[1]):
                raise AssertionError(f'{func} with a mask has a shape that depends on values')
        return func(*args, **(kwargs or {}))


def batch(B=2, G=8, I=2):
    torch.manual_seed(0)
    generator = AnchorGenerator([8, 16, 32], [.5, 1., 2.], [4.])
    sizes = [(8, 10), (4, 5), (2, 3)]
    priors = torch.cat(generator.grid_priors(sizes))
    gts = torch.rand(B, G + I, 4) * 60
    gts[..., 2:] += gts[..., :2] + 4
    valid, labels = torch.rand(B, G) < .7, torch.randint(3, (B, G))
    return generator, sizes, priors, gts[:, :G], labels, valid, gts[:, G:], torch.rand(B, I) < .5, torch.rand(B, len(priors)) < .9


@pytest.mark.parametrize('waits', [lambda x: x.nonzero(), lambda x: x.sum().item(), lambda x: x[x > 0], lambda x: bool(x.any()),
                                   lambda x: x.unique(), lambda x: torch.masked_select(x, x > 0), lambda x: float(x[0])])
def test_the_guard_sees(waits):
    with pytest.raises(AssertionError, match='waits for|depends on values'), NoSync(): waits(torch.rand(4))


@pytest.mark.parametrize('options', [{}, dict(gt_max_assign_all=False), dict(match_low_quality=False), dict(neg_iou_thr=(.1, .4)),
                                     dict(ignore_wrt_candidates=False), dict(min_pos_iou=.3)])
def test_assign_sample_encode_decode(options):
    generator, sizes, priors, gts, labels, valid, regions, regions_valid, prior_valid = batch()
    assigner = MaxIoUAssigner(**{**dict(pos_iou_thr=.5, neg_iou_thr=.4, ignore_iof_thr=.5), **options})
    shapes = torch.tensor([[64, 80], [50, 70]])
    with NoSync():
        usable = generator.inside_flags(priors, generator.valid_flags(sizes, shapes), shapes, allowed_border=16)
        assigned = assigner.assign(priors, gts, labels, valid, regions, regions_valid, usable & prior_valid)
        for sampler in (PseudoSampler(), RandomSampler(64, .5, neg_pos_ub=3)):
            sampled = sampler.sample(assigned)
            sampled.select(32), sampled.label_weights(2.), sampled.num_pos, sampled.num_neg
        matched = gts.gather(1, sampled.gt_inds[..., None].expand(-1, -1, 4))
        for coder in (DeltaXYWHBBoxCoder(target_stds=(.1, .1, .2, .2)), LegacyDeltaXYWHBBoxCoder(), DeltaXYWHBBoxCoder(add_ctr_clamp=True)):
            deltas = coder.encode(priors, matched)
            coder.decode(priors, deltas, max_shape=shapes), coder.decode(priors, deltas, max_shape=(64, 80))
        assigned.add_gt(valid, labels)


def test_no_objects_and_a_new_image_size():
    generator, sizes, priors, gts, labels, valid, *_ = batch()
    generator._kept.clear()
    with NoSync():
        priors = torch.cat(generator.grid_priors(sizes))
        RandomSampler(64, .5).sample(MaxIoUAssigner(.5, .4).assign(priors, gts[:, :0], labels[:, :0], valid[:, :0]))


def test_matching_in_many_pieces():
    "The same when the matrix is too large to be kept: 40 million pairs."
    gts = torch.rand(1, 5000, 4)
    with NoSync(): MaxIoUAssigner(.5, .4).assign(torch.rand(8000, 4), torch.cat([gts[..., :2], gts[..., :2] + gts[..., 2:]], dim=-1))


def test_other_coders():
    _, _, priors, gts, *_ = batch(G=8)
    priors, shapes, stride = priors[:6], torch.tensor([[64, 80], [50, 70]]), torch.full((6,), 8.)
    targets, points = gts[:, :6], (priors[:, :2] + priors[:, 2:]) / 2
    with NoSync():
        for coder in (TBLRBBoxCoder(), TBLRBBoxCoder([1., 2., 3., 4.]), PseudoBBoxCoder(), DeltaXYWHBBoxCoderForGLIP()):
            coder.decode(priors, coder.encode(priors, targets), shapes)
        coder = DistancePointBBoxCoder()
        coder.decode(points, coder.encode(points, targets, max_dis=16), shapes)
        coder = YOLOBBoxCoder()
        coder.decode(priors, coder.encode(priors, targets, stride), stride, shapes)
        for options in ({}, dict(offset_topk=1, cls_ignore_neighbor=False)):
            coder = BucketingBBoxCoder(6, 1.7, **options)
            offsets, _, labels, _ = coder.encode(priors, targets)
            coder.decode(priors, (labels, offsets), shapes)


def test_points_and_responsible_cells():
    shapes, gts, valid = torch.tensor([[64, 80], [50, 70]]), torch.rand(2, 5, 4) * 60, torch.rand(2, 5) < .5
    points, yolo = MlvlPointGenerator([8, 16]), YOLOAnchorGenerator([16, 8], [[(20, 30)], [(8, 9)]])
    with NoSync():
        for with_stride in (False, True): priors = torch.cat(points.grid_priors([(8, 10), (4, 5)], with_stride=with_stride))
        points.inside_flags(priors, points.valid_flags([(8, 10), (4, 5)], shapes), shapes, allowed_border=0)
        yolo.responsible_flags([(4, 5), (8, 10)], gts, valid), yolo.responsible_flags([(4, 5), (8, 10)], gts[:, :0])
        for generator in (points, yolo): generator.sparse_priors(torch.tensor([[3, 7]]), (4, 5), 1)
