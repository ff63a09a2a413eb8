"Laws of the assigners of regions, points and grids, over random inputs; and nothing on their path waits for the device."
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from learndet.structures.boxes import bbox_area, flip_bboxes
from learndet.structures.overlaps import bbox_overlaps
from learndet.task_modules.assigners.approx_max_iou_assigner import ApproxMaxIoUAssigner
from learndet.task_modules.assigners.assign_result import IGNORE, NEGATIVE
from learndet.task_modules.assigners.center_region_assigner import CenterRegionAssigner, RegionAssigner
from learndet.task_modules.assigners.points_and_grids import GridAssigner, PointAssigner, UniformAssigner
from learndet.task_modules.prior_generators.anchor_generator import AnchorGenerator
from test_sync_free import NoSync

quick = settings(max_examples=25, deadline=None)
STRIDES, SIZES, NUMS = [8, 16, 32], [(8, 8), (4, 4), (2, 2)], [64, 16, 4]
LAYOUT = dict(featmap_sizes=SIZES, num_level_anchors=NUMS, anchor_scale=4, anchor_strides=STRIDES)
ANCHORS = torch.cat(AnchorGenerator(STRIDES, [1.], [4.]).grid_priors(SIZES))                 # (84, 4)
CENTERS = (ANCHORS[:, :2] + ANCHORS[:, 2:]) / 2
POINTS = torch.cat([CENTERS, torch.tensor(STRIDES).repeat_interleave(torch.tensor(NUMS))[:, None]], dim=1)


class Rule:
    "An assigner with the priors it is asked about, and what it needs beyond objects, made from a seed for B images."
    def __init__(self, name, assigner, priors, extra, per_image=None):
        self.name, self.assigner, self.priors, self.extra, self.per_image = name, assigner, priors, extra, per_image or (lambda B: {})

    def __call__(self, gts, per_image=None, priors=None, **kwargs):
        B = len(gts) if gts.dim() == 3 else 1
        given = self.per_image(B) if per_image is None else per_image
        if gts.dim() == 2: given = {name: t[0] for name, t in given.items()}
        if self.name == 'CenterRegion' and gts.dim() == 2: kwargs.setdefault('gt_labels', torch.arange(gts.shape[0]) % 2)
        return self.assigner.assign(self.priors if priors is None else priors, gts, **self.extra, **given, **kwargs)


def flags(B): return dict(responsible_flags=torch.rand(B, 84, generator=torch.Generator().manual_seed(B)) < .4)


def preds(B): return dict(bbox_preds=ANCHORS + 6 * torch.randn(B, 84, 4, generator=torch.Generator().manual_seed(B)))


JITTERED = ANCHORS + torch.rand(84, 4, generator=torch.Generator().manual_seed(0)) * .5        # no two equally near
RULES = [Rule('Approx', ApproxMaxIoUAssigner(.5, .4), ANCHORS, dict(approxs=torch.stack([ANCHORS, JITTERED - 3, JITTERED + 4], dim=1))),
         Rule('Grid', GridAssigner(.5, .4), ANCHORS, {}, flags),
         Rule('Point', PointAssigner(pos_num=3), torch.cat([POINTS[:, :2] + JITTERED[:, :2] - ANCHORS[:, :2], POINTS[:, 2:]], dim=1), {}),
         Rule('Uniform', UniformAssigner(.15, .7), JITTERED, {}, preds),
         Rule('CenterRegion', CenterRegionAssigner(.4, .8), ANCHORS, {}),
         Rule('Region', RegionAssigner(.3, .6), ANCHORS, LAYOUT)]
every_rule = pytest.mark.parametrize('rule', RULES, ids=lambda r: r.name)


@st.composite
def objects(draw, min_size=0, max_size=6):
    n, generator = draw(st.integers(min_size, max_size)), torch.Generator().manual_seed(draw(st.integers(0, 2 ** 20)))
    xy, wh = torch.rand(n, 2, generator=generator) * 44, torch.rand(n, 2, generator=generator) * 44 + 4
    return torch.cat([xy, xy + wh], dim=-1)


@every_rule
@quick
@given(gts=objects())
def test_a_positive_prior_overlaps_its_object(rule, gts):
    "For points: it is among the nearest on the object's level, inside or not."
    result = rule(gts)
    positive = result.gt_inds > 0
    mine = gts[result.gt_inds[positive] - 1]
    if rule.name == 'Point':
        own, wanted = rule.assigner.levels(rule.priors, gts) if len(gts) else (POINTS[:, 2], None)
        assert wanted is None or torch.equal(own[positive], wanted[result.gt_inds[positive] - 1])
        assert all((result.gt_inds == i + 1).sum() <= 3 for i in range(len(gts)))
    elif rule.name == 'Approx':
        assert (torch.stack([bbox_overlaps(a[positive], mine, is_aligned=True) for a in rule.extra['approxs'].unbind(1)]).amax(0) > 0).all()
    else: assert (bbox_overlaps(rule.priors[positive], mine, is_aligned=True) > 0).all()


@every_rule
@quick
@given(images=st.lists(objects(), min_size=1, max_size=3), filler=st.sampled_from([0., 7., -1e6, float('nan')]))
def test_a_batch_is_its_images_and_padding_is_nobody(rule, images, filler):
    B, G = len(images), max(map(len, images)) + 1
    gts, valid, labels = torch.full((B, G, 4), filler), torch.zeros(B, G, dtype=torch.bool), torch.full((B, G), 99)
    for b, boxes in enumerate(images): gts[b, :len(boxes)], valid[b, :len(boxes)], labels[b, :len(boxes)] = boxes, True, torch.arange(len(boxes)) % 2
    given = rule.per_image(B)
    together = rule(gts, per_image=given, gt_valid=valid, gt_labels=labels)
    for b, boxes in enumerate(images):
        alone = rule(boxes[None], per_image={n: t[b:b + 1] for n, t in given.items()}, gt_labels=labels[b:b + 1, :len(boxes)])
        assert torch.equal(together.gt_inds[b], alone.gt_inds[0]) and torch.equal(together.labels[b], alone.labels[0])
        assert together.num_gts[b] == len(boxes) and torch.equal(together.max_overlaps[b], alone.max_overlaps[0])
        if rule.name == 'CenterRegion':
            assert torch.equal(together.shadowed[b][:, :len(boxes)], alone.shadowed[0]) and not together.shadowed[b][:, len(boxes):].any()
        if rule.name == 'Uniform': assert together.pos_idx[b].sum() == alone.pos_idx.sum()


@every_rule
@quick
@given(gts=objects(min_size=2), random=st.randoms())
def test_permuting_objects_permutes_the_answer(rule, gts, random):
    "Rules in which the last word counts depend on the order where two objects want the same prior; there both must."
    order = torch.tensor(random.sample(range(len(gts)), len(gts)))
    before, after = rule(gts).gt_inds, rule(gts[order], **(dict(gt_labels=(torch.arange(len(gts)) % 2)[order]) if rule.name == 'CenterRegion' else {})).gt_inds
    renamed = torch.where(after > 0, order[(after - 1).clamp(min=0)] + 1, after)
    if rule.name in ('Point', 'CenterRegion'): return torch.testing.assert_close(before, renamed)      # by distance, by size
    differs = before != renamed
    alone = torch.stack([rule(g[None]).gt_inds for g in gts])                                             # (G, P)
    wanted = (alone != NEGATIVE).sum(0)
    if rule.name != 'Grid' and rule.name != 'Approx': assert (wanted[differs] >= 2).all()
    else: assert ((before > 0) & (renamed > 0))[differs].all()                                            # another object's best, too


@pytest.mark.parametrize('rule', [r for r in RULES if r.name != 'Region'], ids=lambda r: r.name)
@quick
@given(gts=objects(min_size=1), dx=st.integers(-20, 20), dy=st.integers(-20, 20))
def test_moving_everything_changes_nothing(rule, gts, dx, dy):
    "But the rule of cells, which is about places in the image. On eighths of a pixel, so that no sum is rounded."
    gts, priors = (gts * 8).round() / 8, (rule.priors * 8).round() / 8
    move, given = torch.tensor([dx, dy, dx, dy]).float(), rule.per_image(1)
    given = {n: t if n == 'responsible_flags' else (t * 8).round() / 8 for n, t in given.items()}
    extra = {n: (t * 8).round() / 8 for n, t in rule.extra.items()}
    shift = lambda d: {n: t if n == 'responsible_flags' else t + move for n, t in d.items()}
    away = torch.tensor([dx, dy, 0.]) if rule.name == 'Point' else move
    one = lambda d: {n: t[0] for n, t in d.items()}
    at = rule.assigner.assign(priors, gts, **extra, **one(given)).gt_inds
    there = rule.assigner.assign(priors + away, gts + move, **shift(extra), **shift(one(given))).gt_inds
    assert torch.equal(at, there)


@pytest.mark.parametrize('name', ['Approx', 'Grid', 'CenterRegion'])
@quick
@given(gts=objects(min_size=1))
def test_a_mirror_image_has_the_mirrored_answer(name, gts):
    "Where a rule compares boxes and does not look for the nearest of equals; on eighths of a pixel."
    rule = next(r for r in RULES if r.name == name)
    gts, given = (gts * 8).round() / 8, {n: t[0] for n, t in rule.per_image(1).items()}
    extra = {n: (t * 8).round() / 8 for n, t in rule.extra.items()}
    flip = lambda b: flip_bboxes(b, (64, 64))
    at = rule.assigner.assign(rule.priors, gts, **extra, **given).gt_inds
    there = rule.assigner.assign(flip(rule.priors), flip(gts), **{n: flip(t) for n, t in extra.items()}, **given).gt_inds
    assert torch.equal(at, there)


@every_rule
@quick
@given(gts=objects(max_size=4), regions=objects(min_size=1, max_size=2), seed=st.integers(0, 99))
def test_no_negative_in_a_region_and_nothing_of_who_is_not_valid(rule, gts, regions, seed):
    ok = torch.rand(84, generator=torch.Generator().manual_seed(seed)) < .8
    codes = rule(gts, gt_bboxes_ignore=regions, prior_valid=ok).gt_inds
    assert (codes[~ok] == IGNORE).all()
    middles = rule.priors[:, :2] if rule.name == 'Point' else (rule.priors[:, :2] + rule.priors[:, 2:]) / 2
    low, high = regions[:, None, :2], regions[:, None, 2:]
    if rule.name == 'CenterRegion': low, high = low * .75 + high * .25 + .01, low * .25 + high * .75 - .01      # the inner half
    if rule.name != 'Approx':                                                                 # has a threshold of its own
        inside = ((middles > low) & (middles < high)).all(-1).any(0)
        assert not (codes[inside & ok] == NEGATIVE).any()
    assert torch.equal(codes, rule(gts, gt_bboxes_ignore=torch.cat([regions, regions]), prior_valid=ok).gt_inds)


@every_rule
@quick
@given(gts=objects(min_size=1, max_size=5), seed=st.integers(0, 99))
def test_a_trace_ends_in_the_answer_and_has_a_reason_for_everything(rule, gts, seed):
    ok, crowd = torch.rand(84, generator=torch.Generator().manual_seed(seed)) < .9, torch.tensor([[0., 0, 20, 20]])
    labels = torch.arange(len(gts)) % 2
    given = {n: t[0] for n, t in rule.per_image(1).items()} | (dict(gt_labels=labels) if rule.name == 'CenterRegion' else {})
    trace = rule.assigner.trace(rule.priors, gts, crowd, ok, **rule.extra, **given)
    wanted = rule(gts, gt_bboxes_ignore=crowd, prior_valid=ok).gt_inds
    assert torch.equal(trace.gt_inds, wanted) and set(trace.said) == set(trace.steps)
    for p in range(0, 84, 5):
        said = {IGNORE: 'ignored', NEGATIVE: 'negative'}.get(int(wanted[p]), f'positive for object {int(wanted[p]) - 1}')
        assert trace.why(p).startswith(f'prior {p} is {said}: ')
        for i in range(len(gts)): assert str(i) in trace.why_not(p, i) or not ok[p] or wanted[p] == IGNORE
    for i in range(len(gts)):
        assert ('orphan' in trace.why_object(i)) == (i in trace.orphans) and trace.why_object(i).startswith(f'object {i} (')
    assert str(trace).count('\n') == len(trace.steps)


@every_rule
def test_empty_is_normal(rule):
    none = rule(torch.zeros(2, 0, 4), gt_labels=torch.zeros(2, 0).long(), gt_valid=torch.zeros(2, 0, dtype=torch.bool),
                gt_bboxes_ignore=torch.zeros(2, 0, 4))
    assert (none.gt_inds == NEGATIVE).all() and (none.labels == -1).all() and none.num_gts.tolist() == [0, 0]
    extra = {n: t[:0] for n, t in rule.extra.items() if torch.is_tensor(t)}
    if rule.name == 'Region': extra = LAYOUT | dict(featmap_sizes=[(0, 0)], num_level_anchors=[0], anchor_strides=[8])
    per_image = {n: t[:, :0] for n, t in rule.per_image(2).items()}
    result = rule.assigner.assign(rule.priors[:0], torch.zeros(2, 3, 4), torch.zeros(2, 3).long(), **extra, **per_image)
    assert result.gt_inds.shape == (2, 0) and result.labels.shape == (2, 0)


@every_rule
def test_an_object_without_area_takes_nothing(rule):
    line = torch.tensor([[20., 20, 20, 44], [30., 40, 20, 50], [float('nan')] * 4])
    assert not (rule(line).gt_inds > 0).any()


@every_rule
def test_nothing_waits_for_the_device(rule):
    gts = torch.rand(2, 5, 4) * 40
    gts[..., 2:] += gts[..., :2]
    args = dict(gt_labels=torch.zeros(2, 5).long(), gt_valid=torch.rand(2, 5) < .7, gt_bboxes_ignore=gts[:, :2],
                ignore_valid=torch.rand(2, 2) < .5, prior_valid=torch.rand(2, 84) < .9)
    given = rule.per_image(2)
    with NoSync():
        result = rule(gts, per_image=given, **args)
        if rule.name == 'CenterRegion': result.class_weights(3)
        rule(gts[:, :0], per_image=given, gt_labels=args['gt_labels'][:, :0])


@every_rule
def test_no_gradient_passes(rule):
    priors, given = rule.priors.clone().requires_grad_(), {n: t.clone().requires_grad_() if t.is_floating_point() else t
                                                           for n, t in rule.per_image(1).items()}
    result = rule(torch.tensor([[[4., 4, 40, 40]]]), per_image=given, priors=priors)
    assert not result.max_overlaps.requires_grad


@quick
@given(gts=objects(min_size=1, max_size=5))
def test_cores_go_to_the_smallest(gts):
    result = CenterRegionAssigner(.6, .8, foreground_dominate=True).assign(ANCHORS, gts, torch.arange(len(gts)))
    trace = CenterRegionAssigner(.6, .8, foreground_dominate=True).trace(ANCHORS, gts, gt_labels=torch.arange(len(gts)))
    area = torch.where(trace.core, bbox_area(gts)[:, None], torch.inf)
    positive = result.gt_inds > 0
    assert torch.equal(positive, trace.core.any(0))
    assert torch.equal(area.amin(0)[positive], bbox_area(gts)[result.gt_inds[positive] - 1])
    assert not result.shadowed[positive].gather(1, result.gt_inds[positive, None] - 1).any()          # nobody is in the shadow of his own object


@quick
@given(gts=objects(min_size=1, max_size=4))
def test_every_object_has_its_nearest_points_unless_a_nearer_one_took_them(gts):
    rule = RULES[2]
    trace = rule.assigner.trace(rule.priors, gts)
    near = trace.near.isfinite()
    assert (near.sum(1) == 3).all()
    assert torch.equal(trace.gt_inds > 0, near.any(0))
    owner = (trace.gt_inds - 1).clamp(min=0)
    assert torch.equal(trace.near.amin(0)[near.any(0)], trace.near.gather(0, owner[None])[0][near.any(0)])
