"Second stages: nothing waits for the device, padding has no influence, and the masks that come out are those of the regions that went in."
import pytest
import torch
from hypothesis import given, settings, strategies as st

from learndet.models.dense_heads.rpn_head import Proposals
from learndet.models.roi_heads.bbox_head import BBoxHead, Shared2FCBBoxHead, Shared4Conv1FCBBoxHead
from learndet.models.roi_heads.cascade_roi_head import CascadeRoIHead, as_proposals
from learndet.models.roi_heads.mask_head import FCNMaskHead, batch_mask_targets, stack_masks
from learndet.models.roi_heads.roi_align import RoIAlign
from learndet.models.roi_heads.roi_extractor import SingleRoIExtractor
from learndet.models.roi_heads.standard_roi_head import StandardRoIHead, box_losses, mask_losses, sample_regions
from learndet.structures.ground_truth import pad_ground_truth
from learndet.structures.instance_data import DetDataSample, InstanceData
from learndet.structures.masks import BitmapMasks, mask_target
from learndet.task_modules.assigners.max_iou_assigner import MaxIoUAssigner
from learndet.task_modules.samplers.hard_examples import OHEMSampler
from learndet.task_modules.samplers.sampling import RandomSampler
from tests.laws.test_sync_free import NoSync

H, W, K = 96, 128, 3


def boxes(r, n):
    xy = torch.rand(n, 2, generator=r) * torch.tensor([W * .6, H * .6])
    return torch.cat([xy, xy + 8 + torch.rand(n, 2, generator=r) * 30], dim=1)


def filled(bboxes):
    y, x = torch.arange(H)[:, None] + .5, torch.arange(W) + .5
    return BitmapMasks(torch.stack([(x > b[0]) & (x < b[2]) & (y > b[1]) & (y < b[3]) for b in bboxes]) if len(bboxes) else [], H, W)


def batch(seed=0, counts=(2, 0, 3), R=20):
    r, samples = torch.Generator().manual_seed(seed), []
    for i, n in enumerate(counts):
        gts = boxes(r, n)
        samples.append(DetDataSample(metainfo=dict(img_id=i, img_shape=(H, W), ori_shape=(H, W), scale_factor=(1., 1.))))
        samples[-1].gt_instances = InstanceData(bboxes=gts, labels=torch.randint(K, (n,), generator=r), masks=filled(gts))
    near = [torch.cat([s.gt_instances.bboxes + torch.randn(len(s.gt_instances), 4, generator=r) * 2, boxes(r, R)])[:R] for s in samples]
    valid = torch.rand(len(counts), R, generator=r) < .8
    proposals = Proposals(torch.stack(near).clamp(min=0) * valid[..., None], valid.float(), valid)
    feats = tuple(torch.randn(len(counts), 8, H // s, W // s, generator=r) for s in (4, 8))
    return feats, proposals, samples


def extractor(size): return SingleRoIExtractor(RoIAlign(size, sampling_ratio=2), 8, [4, 8])
def box_head(**kw): return Shared2FCBBoxHead(num_classes=K, in_channels=8, fc_out_channels=16, **kw)
def mask_head(**kw): return FCNMaskHead(num_convs=1, in_channels=8, conv_out_channels=8, num_classes=K, **kw)


def standard(sampler=None):
    torch.manual_seed(0)
    return StandardRoIHead(extractor(7), box_head(), extractor(14), mask_head(), sampler=sampler or RandomSampler(1000, .5))


def cascade(sampler=None):
    torch.manual_seed(0)
    return CascadeRoIHead(3, [1, .5, .25], extractor(7), [box_head(reg_class_agnostic=True) for _ in range(3)], extractor(14), mask_head(),
                          sampler=sampler or RandomSampler(1000, .5))


HEADS = pytest.mark.parametrize('make', [standard, cascade], ids=['standard', 'cascade'])


def test_sampling_targets_and_losses_do_not_wait():
    "All but the reading of features, whose extractor waits once to sort regions by level."
    feats, proposals, samples = batch()
    gt, masks, head, masker = pad_ground_truth(samples), stack_masks(samples), box_head(reg_class_agnostic=True), mask_head()
    with NoSync():
        sampled = sample_regions(proposals, gt, MaxIoUAssigner(.5, .5, match_low_quality=False), RandomSampler(16, .25), K)
        n = sampled.valid.numel()
        cls_score, bbox_pred = torch.randn(n, K + 1), torch.randn(n, 4)
        box_losses(head, cls_score, bbox_pred, sampled)
        refined = head.refine(cls_score.view(3, -1, K + 1), bbox_pred.view(3, -1, 4), sampled.bboxes, torch.tensor([[H, W]] * 3), sampled.labels)
        as_proposals(refined, sampled)
        batch_mask_targets(sampled.bboxes[:, :4], sampled.objects[:, :4], masks)
        mask_losses(masker, torch.randn(12, K, 28, 28), sampled, samples, 28)


@HEADS
def test_padding_does_not_matter(make):
    "More places that are not valid, with nonsense in them, change no loss and no detection."
    feats, proposals, samples = batch()
    junk = torch.full((3, 15, 4), 7.) + torch.arange(4.)
    more = Proposals(torch.cat([proposals.bboxes, junk], 1), torch.nn.functional.pad(proposals.scores, (0, 15)), torch.nn.functional.pad(proposals.valid, (0, 15)))
    head = make()
    for a, b in zip(head.predict(feats, proposals, samples), head.predict(feats, more, samples)):
        assert len(a) == len(b) > 0 and torch.allclose(a.scores, b.scores, atol=1e-5) and torch.equal(a.masks, b.masks)
    one, other = (head.loss(feats, p, samples) for p in (proposals, more))
    for name in one: assert one[name].item() == pytest.approx(other[name].item(), rel=1e-4, abs=1e-6), name


@pytest.mark.parametrize('stages', [1, 3])
def test_batch_norm_learns_from_regions_that_count(stages):
    "Padding, and background before a mask head, are in no statistic: as in MMDetection, whose lists hold nothing else."
    bn = dict(norm_cfg=dict(type='BN'))
    def head(places):
        torch.manual_seed(0)
        boxes = [Shared4Conv1FCBBoxHead(num_classes=K, in_channels=8, conv_out_channels=8, fc_out_channels=16, reg_class_agnostic=True, **bn) for _ in range(stages)]
        rest = extractor(14), mask_head(**bn)
        if stages == 1: return StandardRoIHead(extractor(7), boxes[0], *rest, sampler=RandomSampler(1000, places))
        return CascadeRoIHead(stages, [1, .5, .25], extractor(7), boxes, *rest, sampler=RandomSampler(1000, places))
    feats, proposals, samples = batch()
    more = Proposals(*(torch.cat([t, torch.zeros_like(t)], 1) for t in (proposals.bboxes, proposals.scores, proposals.valid)))
    few, many = head(.02), head(.9)                             # 20 places for positives, or all
    one, other = few.loss(feats, proposals, samples), many.loss(feats, more, samples)
    for name in one: assert one[name].item() == pytest.approx(other[name].item(), rel=1e-4, abs=1e-6), name
    for (name, a), b in zip(few.named_buffers(), many.buffers()): assert torch.allclose(a.float(), b.float(), atol=1e-5), name


def test_a_shared_head_learns_from_regions_that_count():
    def head():
        torch.manual_seed(0)
        shared = torch.nn.Sequential(torch.nn.Conv2d(8, 8, 3, padding=1), torch.nn.BatchNorm2d(8))
        return StandardRoIHead(extractor(7), box_head(), sampler=RandomSampler(1000, .5), shared_head=shared)
    feats, proposals, samples = batch()
    more = Proposals(*(torch.cat([t, torch.zeros_like(t)], 1) for t in (proposals.bboxes, proposals.scores, proposals.valid)))
    one, other = head(), head()
    losses = [h.loss(feats, p, samples) for h, p in ((one, proposals), (other, more))]
    for name in losses[0]: assert losses[0][name].item() == pytest.approx(losses[1][name].item(), rel=1e-4, abs=1e-6), name
    assert torch.allclose(one.shared_head[1].running_var, other.shared_head[1].running_var, atol=1e-6)


@pytest.mark.parametrize('make', [standard, cascade], ids=['standard', 'cascade'])
def test_hard_regions_are_asked_for(make):
    "A sampler of hard regions gets their losses: two places for positives go to the two the head is most wrong about."
    feats, proposals, samples = batch(counts=(3, 3))
    head, gt = make(OHEMSampler(8, .25)), pad_ground_truth(samples)
    assert all(torch.isfinite(v) for v in head.loss(feats, proposals, samples).values())
    if make is cascade: return
    chosen, everybody = (sample_regions(proposals, gt, head.assigner, sampler, K, lambda *regions: head.region_losses(feats, *regions))
                         for sampler in (head.sampler, RandomSampler(1000, 1.)))
    losses = head.region_losses(feats, everybody.bboxes, everybody.labels)
    for b in range(2):
        worst = losses[b].masked_fill(~everybody.positive[b], -1).topk(2).indices
        assert sorted(chosen.bboxes[b, :2].tolist()) == sorted(everybody.bboxes[b, worst].tolist())


@HEADS
def test_a_picture_alone_is_a_picture_in_a_batch(make):
    feats, proposals, samples = batch()
    together = make().predict(feats, proposals, samples)
    for b in range(3):
        alone = make().predict(tuple(f[b:b + 1] for f in feats), Proposals(proposals.bboxes[b:b + 1], proposals.scores[b:b + 1], proposals.valid[b:b + 1]), samples[b:b + 1])[0]
        assert len(alone) == len(together[b]) and torch.allclose(alone.bboxes, together[b].bboxes, atol=1e-3)


@HEADS
@pytest.mark.parametrize('counts, valid', [((0, 0), True), ((0, 0), False), ((2, 0), False)])
def test_empty_batches_are_finite(make, counts, valid):
    feats, proposals, samples = batch(counts=counts)
    if not valid: proposals = Proposals(proposals.bboxes * 0, proposals.scores * 0, proposals.valid & False)
    head = make()
    losses = head.loss(feats, proposals, samples)
    sum(v for k, v in losses.items() if 'loss' in k).backward()
    assert all(torch.isfinite(v) for v in losses.values())
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in head.parameters())


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.tuples(st.integers(0, 4), st.integers(0, 4)), st.integers(0, 5))
def test_batched_mask_targets_are_those_of_each_region(seed, counts, P):
    _, _, samples = batch(seed, counts)
    r = torch.Generator().manual_seed(seed)
    regions = torch.stack([boxes(r, P) + torch.randn(P, 4, generator=r) * 9 for _ in counts])
    regions = torch.cat([regions[..., :2].minimum(regions[..., 2:]), regions[..., :2].maximum(regions[..., 2:])], dim=-1)
    objects = torch.stack([torch.randint(max(n, 1), (P,), generator=r) for n in counts])
    fast = batch_mask_targets(regions, objects, stack_masks(samples), 14)
    for b, n in enumerate(counts):
        if n: assert torch.equal(fast[b], mask_target([regions[b]], [objects[b]], [samples[b].gt_instances.masks], 14))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([4, 8, 32]), st.sampled_from([0., .25, 1.]))
def test_positives_lead_and_know_their_object(seed, num, fraction):
    _, proposals, samples = batch(seed)
    gt = pad_ground_truth(samples)
    s = sample_regions(proposals, gt, MaxIoUAssigner(.5, .5, match_low_quality=False), RandomSampler(num, fraction), K)
    assert not s.positive[:, s.max_pos:].any() and (s.positive <= s.valid).all()
    assert ((s.labels < K) == s.positive).all()
    rows = s.positive.nonzero()
    for b, i in rows.tolist():
        assert torch.equal(s.gt_bboxes[b, i], samples[b].gt_instances.bboxes[s.objects[b, i]])
        assert s.labels[b, i] == samples[b].gt_instances.labels[s.objects[b, i]]
        if s.is_gt[b, i]: assert torch.equal(s.bboxes[b, i], s.gt_bboxes[b, i])


def test_pos_weight_weighs_positives_only():
    feats, proposals, samples = batch()
    sampled = sample_regions(proposals, pad_ground_truth(samples), MaxIoUAssigner(.5, .5, match_low_quality=False), RandomSampler(1000, .5), K)
    head = BBoxHead(with_avg_pool=True, in_channels=8, num_classes=K)
    outs = head(torch.randn(sampled.valid.numel(), 8, 7, 7))
    plain, tripled = (box_losses(head, *outs, sampled, w)['loss_cls'] for w in (-1, 3.))
    each = torch.nn.functional.cross_entropy(outs[0], sampled.labels.flatten(), reduction='none') * sampled.positive.flatten()
    assert tripled.item() == pytest.approx((plain + 2 * each.sum() / sampled.valid.sum()).item(), rel=1e-4)


def test_a_mask_head_without_masks_says_so():
    feats, proposals, samples = batch()
    del samples[2].gt_instances.masks
    with pytest.raises(ValueError, match=r'sample 2 of the batch \(img_id 2\) has no gt_instances.masks'): standard().loss(feats, proposals, samples)
