"Laws of anchors, coders, assigners and samplers, over random inputs."
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from learndet.structures.overlaps import bbox_overlaps
from learndet.task_modules.assigners.assign_result import IGNORE, NEGATIVE, AssignResult
from learndet.task_modules.assigners.max_iou_assigner import MaxIoUAssigner
from learndet.task_modules.coders.delta_xywh_coder import DeltaXYWHBBoxCoder
from learndet.task_modules.prior_generators.anchor_generator import AnchorGenerator, single_level_grid_priors
from learndet.task_modules.samplers.sampling import PseudoSampler, RandomSampler

quick = settings(max_examples=20, deadline=None)


@st.composite
def bboxes(draw, min_size=0, max_size=12, grid=False):
    "(n, 4) xyxy boxes inside 0..128; on a coarse grid many IoUs are equal."
    n, seed = draw(st.integers(min_size, max_size)), draw(st.integers(0, 2 ** 20))
    generator = torch.Generator().manual_seed(seed)
    xy, wh = torch.rand(n, 2, generator=generator) * 96, torch.rand(n, 2, generator=generator) * 60 + 2
    if grid: xy, wh = (xy / 16).round() * 16, (wh / 16).ceil() * 16
    return torch.cat([xy, xy + wh], dim=-1)


assigners = st.builds(MaxIoUAssigner, pos_iou_thr=st.sampled_from([.5, .6, .7]), neg_iou_thr=st.sampled_from([.3, .4, (.1, .4), .5]),
                      min_pos_iou=st.sampled_from([0., .2, .5]), gt_max_assign_all=st.booleans(), match_low_quality=st.booleans())


@quick
@given(assigners, bboxes(max_size=5), bboxes(min_size=1, max_size=30))
def test_a_positive_prior_overlaps_its_object(assigner, gts, priors):
    "Agreement with another library would not find this: a tiny object far from every prior must claim none."
    gt_inds = assigner.assign(priors, gts).gt_inds                                           # (P,)
    positive = gt_inds > 0
    assert (bbox_overlaps(priors[positive], gts[gt_inds[positive] - 1], is_aligned=True) > 0).all()


@quick
@given(bboxes(min_size=1, max_size=30))
def test_an_object_elsewhere_changes_nothing(priors):
    elsewhere, near = torch.tensor([[1e4, 1e4, 1e4 + 8, 1e4 + 8]]), priors[:1] + 1
    assigner = MaxIoUAssigner(.5, .4)
    assert torch.equal(assigner.assign(priors, torch.cat([near, elsewhere])).gt_inds, assigner.assign(priors, near).gt_inds)
    assert (assigner.assign(priors, elsewhere).gt_inds == NEGATIVE).all()


@quick
@given(assigners, bboxes(min_size=1, max_size=6), bboxes(min_size=1, max_size=30), st.randoms())
def test_permuting_objects_permutes_the_answer(assigner, gts, priors, random):
    "Unless two objects want the same prior: then the later one has it, and order matters."
    iou = bbox_overlaps(gts, priors)
    best_priors = iou.argmax(dim=1).tolist()
    columns = iou.sort(dim=0, descending=True).values
    assume(len(set(best_priors)) == len(gts) and (len(gts) == 1 or ((columns[0] - columns[1]) > 0)[columns[0] > 0].all()))
    assume(((iou == iou.amax(1, keepdim=True)).sum(1) == 1).all())
    order = list(range(len(gts)))
    random.shuffle(order)
    before, after = assigner.assign(priors, gts).gt_inds, assigner.assign(priors, gts[order]).gt_inds
    renamed = torch.where(after > 0, torch.tensor(order + [0])[(after - 1).clamp(min=0)] + 1, after)
    assert torch.equal(before, renamed)


@quick
@given(assigners, bboxes(min_size=1, max_size=6, grid=True), bboxes(min_size=1, max_size=30, grid=True), st.randoms())
def test_permuting_priors_permutes_the_answer(assigner, gts, priors, random):
    if not assigner.gt_max_assign_all: assigner.gt_max_assign_all = True             # "the first" means something in an order
    order = torch.tensor(random.sample(range(len(priors)), len(priors)))
    assert torch.equal(assigner.assign(priors, gts).gt_inds[order], assigner.assign(priors[order], gts).gt_inds)


@quick
@given(assigners, st.lists(bboxes(max_size=6, grid=True), min_size=1, max_size=4), bboxes(min_size=1, max_size=20, grid=True), st.booleans())
def test_a_batch_is_its_images(assigner, images, priors, own_priors):
    "A batch of B equals B batches of one, and padding is nobody."
    B, G = len(images), max(map(len, images))
    gts, valid = torch.full((B, G, 4), 7.), torch.zeros(B, G, dtype=torch.bool)
    for b, boxes in enumerate(images): gts[b, :len(boxes)], valid[b, :len(boxes)] = boxes, True
    all_priors = priors.expand(B, -1, -1) + torch.arange(B)[:, None, None] if own_priors else priors
    together = assigner.assign(all_priors, gts, gt_labels=torch.arange(G).expand(B, G), gt_valid=valid)
    for b, boxes in enumerate(images):
        alone = assigner.assign(all_priors[b] if own_priors else priors, boxes, gt_labels=torch.arange(len(boxes)))
        for name in ('gt_inds', 'max_overlaps', 'labels', 'num_gts'):
            assert torch.equal(getattr(together, name)[b], getattr(alone, name))


@quick
@given(bboxes(max_size=5), bboxes(min_size=1, max_size=25), bboxes(min_size=1, max_size=3))
def test_ignored_regions_and_invalid_priors_are_never_in_the_loss(gts, priors, regions):
    valid = torch.arange(len(priors)) % 4 > 0
    result = MaxIoUAssigner(.5, .4, ignore_iof_thr=.5).assign(priors, gts, gt_bboxes_ignore=regions, prior_valid=valid)
    inside = bbox_overlaps(priors, regions, mode='iof').amax(dim=1) > .5
    assert (result.gt_inds[inside | ~valid] == IGNORE).all() and (result.max_overlaps[inside | ~valid] == -1).all()
    rest = ~(inside | ~valid)
    assert torch.equal(result.gt_inds[rest], MaxIoUAssigner(.5, .4).assign(priors[rest], gts).gt_inds)


@quick
@given(assigners, bboxes(min_size=1, max_size=6, grid=True), bboxes(min_size=1, max_size=25, grid=True))
def test_the_trace_ends_in_the_answer(assigner, gts, priors):
    trace = assigner.trace(priors, gts)
    assert torch.equal(trace.gt_inds, assigner.assign(priors, gts).gt_inds)
    for p in range(len(priors)):
        code, words = int(trace.gt_inds[p]), trace.why(p)
        assert ('ignored' in words, 'negative' in words, f'object {code - 1}:' in words) == (code == IGNORE, code == NEGATIVE, code > 0), words
    assert trace.orphans == [i for i in range(len(gts)) if not (trace.gt_inds == i + 1).any()]
    assert all(('orphan' in trace.why_object(i)) == (i in trace.orphans) for i in range(len(gts)))


@quick
@given(assigners, bboxes(min_size=1, max_size=5, grid=True), bboxes(min_size=1, max_size=20, grid=True))
def test_flip_and_translation(assigner, gts, priors):
    "Objects and priors that are moved or mirrored together keep their answers (whole numbers, so IoUs are the same)."
    answer = assigner.assign(priors, gts).gt_inds
    assert torch.equal(answer, assigner.assign(priors + 32, gts + 32).gt_inds)
    mirror = lambda b: torch.stack([256 - b[:, 2], b[:, 1], 256 - b[:, 0], b[:, 3]], dim=-1)
    assert torch.equal(answer, assigner.assign(mirror(priors), mirror(gts)).gt_inds)


stds = st.sampled_from([(1., 1., 1., 1.), (.1, .1, .2, .2), (.033, .033, .067, .067)])


@quick
@given(stds, bboxes(min_size=1, max_size=20), st.integers(0, 2 ** 20))
def test_decode_undoes_encode(stds, priors, seed):
    coder, generator = DeltaXYWHBBoxCoder(target_means=(.01, 0., -.02, 0.), target_stds=stds), torch.Generator().manual_seed(seed)
    gts = priors + torch.rand(priors.shape, generator=generator) - .5
    assert torch.allclose(coder.decode(priors, coder.encode(priors, gts)), gts, atol=2e-3)
    deltas = torch.randn(priors.shape, generator=generator)
    assert torch.allclose(coder.encode(priors, coder.decode(priors, deltas)), deltas, atol=2e-2)


@quick
@given(bboxes(min_size=1, max_size=20), st.floats(-500, 500), st.floats(.1, 10))
def test_coder_does_not_see_translation_scale_and_mirrors_dx(priors, shift, scale):
    coder, gts = DeltaXYWHBBoxCoder(), priors.flip(0)
    deltas = coder.encode(priors, gts)
    assert torch.allclose(coder.encode(priors * scale, gts * scale), deltas, atol=1e-3, rtol=1e-3)
    assert torch.allclose(coder.encode(priors + shift, gts + shift), deltas, atol=1e-2, rtol=1e-2)
    mirror = lambda b: torch.stack([-b[:, 2], b[:, 1], -b[:, 0], b[:, 3]], dim=-1)
    assert torch.allclose(coder.encode(mirror(priors), mirror(gts)), deltas * torch.tensor([-1., 1, 1, 1]), atol=1e-5)


@quick
@given(bboxes(min_size=1, max_size=20), st.integers(1, 200), st.integers(1, 200), st.floats(-1e6, 1e6))
def test_decoded_boxes_are_finite_and_inside(priors, h, w, size):
    out = DeltaXYWHBBoxCoder().decode(priors, torch.full_like(priors, size), max_shape=(h, w))
    assert out.isfinite().all() and (out >= 0).all() and (out[:, 0::2] <= w).all() and (out[:, 1::2] <= h).all()


@quick
@given(st.integers(1, 8), st.integers(1, 8), st.sampled_from([4, 8, (8, 16), 7.5]), st.lists(st.sampled_from([.5, 1., 2.]), min_size=1, max_size=3),
       st.lists(st.sampled_from([1., 2., 8.]), min_size=1, max_size=2))
def test_priors_move_with_their_cell(H, W, stride, ratios, scales):
    generator = AnchorGenerator([stride], ratios, scales)
    A, (sx, sy) = generator.num_base_priors[0], generator.strides[0]
    priors = generator.grid_priors([(H, W)])[0].view(H, W, A, 4)
    assert torch.equal(priors[0, 0], generator.base_anchors[0])
    assert torch.allclose(priors[-1, -1] - priors[0, 0], torch.tensor([(W - 1.) * sx, (H - 1.) * sy] * 2), atol=1e-3)
    centers = (priors[..., :2] + priors[..., 2:]) / 2
    assert torch.allclose(centers, single_level_grid_priors(torch.zeros(1, 4), (H, W), (sx, sy)).view(H, W, 1, 4)[..., :2].expand_as(centers), atol=1e-3)


@quick
@given(st.integers(0, 2 ** 20), st.integers(1, 80), st.sampled_from([.0, .25, .5, 1.]), st.sampled_from([-1, 0, 1, 3]))
def test_sampling_counts(seed, num, pos_fraction, neg_pos_ub):
    generator = torch.Generator().manual_seed(seed)
    gt_inds = torch.randint(-1, 4, (3, 60), generator=generator) * (torch.rand(3, 60, generator=generator) < .4)
    result = RandomSampler(num, pos_fraction, neg_pos_ub).sample(AssignResult(gt_inds, torch.zeros(3, 60)), generator)
    assert not (result.pos & result.neg).any()
    assert (gt_inds[result.pos] > 0).all() and (gt_inds[result.neg] == NEGATIVE).all()
    for b in range(3):
        positives, negatives = int((gt_inds[b] > 0).sum()), int((gt_inds[b] == NEGATIVE).sum())
        num_pos = min(positives, int(num * pos_fraction))
        limit = num - num_pos if neg_pos_ub < 0 else min(num - num_pos, neg_pos_ub * max(num_pos, 1))
        assert (int(result.num_pos[b]), int(result.num_neg[b])) == (num_pos, min(negatives, limit))
        inds, pos, valid = (t[b] for t in result.select(num))
        assert len(inds) == num and torch.equal(inds[pos], result.pos[b].nonzero()[:, 0])
        assert torch.equal(inds[valid & ~pos], result.neg[b].nonzero()[:, 0]) and not (pos & ~valid).any()
    assert result.avg_factor == (result.num_pos.clamp(min=1) + result.num_neg.clamp(min=1)).sum()
    everything = PseudoSampler().sample(AssignResult(gt_inds, torch.zeros(3, 60)))
    assert torch.equal(everything.pos | everything.neg, gt_inds != IGNORE) and everything.avg_factor == everything.num_pos.clamp(min=1).sum()
