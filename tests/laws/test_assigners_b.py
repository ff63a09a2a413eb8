"Laws of the assigners that look at pairs: ATSS, SimOTA, task-aligned, dynamic soft labels, Hungarian."
import copy
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from learndet.structures.overlaps import bbox_overlaps
from learndet.task_modules.assigners.assign_result import IGNORE, NEGATIVE, box_centers, depth_inside, points_inside
from learndet.task_modules.assigners.atss import ATSSAssigner
from learndet.task_modules.assigners.dynamic_soft_label import DynamicSoftLabelAssigner
from learndet.task_modules.assigners.hungarian import HungarianAssigner, TopkHungarianAssigner, cheapest_pairs, linear_assignment
from learndet.task_modules.assigners.match_costs import BBoxL1Cost, FocalLossCost, IoUCost
from learndet.task_modules.assigners.sim_ota import SimOTAAssigner, near_center
from learndet.task_modules.assigners.task_aligned import TaskAlignedAssigner

few = settings(max_examples=8, deadline=None)
LEVELS = [36, 9]
POINTS = torch.tensor([[(j + .5) * s, (i + .5) * s, s, s] for n, s in ((6, 16), (3, 32)) for i in range(n) for j in range(n)], dtype=torch.float32)
ANCHORS = torch.cat([POINTS[:, :2] - POINTS[:, 2:], POINTS[:, :2] + POINTS[:, 2:]], dim=1)
DETR = [FocalLossCost(weight=2.), BBoxL1Cost('xywh', weight=5.), IoUCost('giou', weight=2.)]
RULES = {'atss': (ATSSAssigner(5), ANCHORS), 'ddod': (ATSSAssigner(5, alpha=.8), ANCHORS), 'sim_ota': (SimOTAAssigner(1.5), POINTS),
         'task_aligned': (TaskAlignedAssigner(6), ANCHORS), 'soft_label': (DynamicSoftLabelAssigner(), POINTS),
         'hungarian': (HungarianAssigner(DETR), ANCHORS), 'topk_hungarian': (TopkHungarianAssigner(2), ANCHORS)}


def scene(seed, G, whole=False, B=None):
    "Objects, labels, predicted boxes and logits of one image (or B); whole numbers where arithmetic should be exact."
    g, lead = torch.Generator().manual_seed(seed), () if B is None else (B,)
    xy, wh = torch.rand(*lead, G, 2, generator=g) * 70, torch.rand(*lead, G, 2, generator=g) * 40 + 6
    gts = torch.cat([xy, xy + wh], dim=-1)
    own = torch.randint(max(G, 1), (*lead, 45, 1), generator=g)
    preds = (gts.gather(-2, own.expand(*lead, 45, 4)) if G else torch.zeros(*lead, 45, 4)) + 8 * torch.randn(*lead, 45, 4, generator=g)
    preds = torch.cat([preds[..., :2], torch.maximum(preds[..., :2] + 1, preds[..., 2:])], dim=-1)
    if whole: gts, preds = gts.round(), preds.round()
    return gts, torch.randint(4, (*lead, G), generator=g), preds, torch.randn(*lead, 45, 4, generator=g)


def extras(name, preds, logits, size=(96, 96), levels=LEVELS):
    if name == 'atss': return dict(num_level_priors=levels)
    more = dict(bbox_preds=preds, cls_scores=logits.sigmoid() if name in ('sim_ota', 'task_aligned', 'topk_hungarian') else logits)
    if name == 'ddod': more['num_level_priors'] = levels
    if 'hungarian' in name: more['img_shape'] = size
    return more


def assign(name, gts, labels, preds, logits, priors=None, size=(96, 96), **options):
    assigner, own = RULES[name]
    return assigner.assign(own if priors is None else priors, gts, labels, **options, **extras(name, preds, logits, size))


seeds, counts = st.integers(0, 2 ** 20), st.integers(0, 6)
each_rule, each_place = (pytest.mark.parametrize('name', [n for n in RULES if queries or 'hungarian' not in n]) for queries in (True, False))


@few
@given(seeds, counts, st.booleans())
def test_a_positive_prior_overlaps_its_object(seed, G, whole):
    "Or, where priors are points, lies in its box or near its centre. Queries are nowhere, and are left out here."
    gts, labels, preds, logits = scene(seed, G, whole)
    for name in ('atss', 'ddod', 'sim_ota', 'task_aligned', 'soft_label'):
        codes = assign(name, gts, labels, preds, logits).gt_inds
        p = (codes > 0).nonzero()[:, 0]
        own = gts[codes[p] - 1]
        if name == 'sim_ota': assert (near_center(POINTS[p], own, 1.5) | (depth_inside(POINTS[p, :2], own) > 0)).all()
        elif name == 'soft_label': assert (depth_inside(POINTS[p, :2], own) > 0).all()
        else: assert (bbox_overlaps(ANCHORS[p], own, is_aligned=True) > 0).all() and (depth_inside(box_centers(ANCHORS[p]), own) > .01).all()


@each_place
@few
@given(seeds, st.integers(1, 6))
def test_an_object_elsewhere_changes_nothing(name, seed, G):
    gts, labels, preds, logits = scene(seed, G)
    more = torch.cat([gts, torch.tensor([[1e4, 1e4, 1e4 + 20, 1e4 + 30]])])
    before, after = (assign(name, g, torch.cat([labels, labels[:1]])[:len(g)], preds, logits).gt_inds for g in (gts, more))
    assert torch.equal(before, after)


@each_rule
@few
@given(seeds, st.integers(1, 6), st.randoms())
def test_permuting_objects_permutes_the_answer(name, seed, G, random):
    gts, labels, preds, logits = scene(seed, G)
    order = torch.tensor(random.sample(range(G), G))
    before, after = assign(name, gts, labels, preds, logits).gt_inds, assign(name, gts[order], labels[order], preds, logits).gt_inds
    after = torch.where(after > 0, order[(after - 1).clamp(min=0)] + 1, after)
    if name in ('sim_ota', 'soft_label'):        # a prediction that misses two objects of one class costs them the same: the first has it
        cost = RULES[name][0].trace(POINTS, gts, gt_labels=labels, **extras(name, preds, logits)).cost
        tied = (cost == cost.amin(0)).sum(0) > 1
        before, after = before[~tied], after[~tied]
    assert torch.equal(before, after)


def in_blocks(assigner, pairs):
    "The same rule with at most so many pairs of an image in a block."
    assigner = copy.copy(assigner)
    assigner.pairs_at_once = pairs
    return assigner


@pytest.mark.parametrize('name', ['sim_ota', 'task_aligned', 'soft_label'])
@few
@given(seeds, counts, st.integers(1, 500), st.booleans())
def test_the_size_of_a_block_changes_nothing(name, seed, G, pairs, whole):
    "Except the last digit of a power, as vector units have one for eight numbers and another for what is left over."
    (gts, labels, preds, logits), (assigner, priors) = scene(seed, G, whole, B=2), RULES[name]
    given = dict(gt_labels=labels, gt_valid=torch.rand(2, G) < .8, **extras(name, preds, logits))
    once, parts = (a.assign(priors, gts, **given) for a in (assigner, in_blocks(assigner, pairs)))
    assert torch.equal(once.gt_inds, parts.gt_inds) and torch.equal(once.max_overlaps, parts.max_overlaps)
    if once.assign_metrics is not None: torch.testing.assert_close(once.assign_metrics, parts.assign_metrics, rtol=1e-6, atol=0)
    one = {k: t[0] for k, t in extras(name, preds, logits).items()}
    traces = [a.trace(priors, gts[0], labels[0], **one) for a in (assigner, in_blocks(assigner, pairs))]
    assert torch.equal(*(t.gt_inds for t in traces)) and torch.equal(*(t.overlaps for t in traces))


def test_a_tie_goes_to_the_first_object():
    gts, labels, preds, logits = scene(98270, 3)
    more = extras('sim_ota', preds, logits)
    for assigner in (RULES['sim_ota'][0], in_blocks(RULES['sim_ota'][0], 1)):
        codes = [assigner.assign(POINTS, gts[order], labels[order], **more).gt_inds[10] for order in ([0, 1, 2], [0, 2, 1])]
        assert codes == [2, 2]


@each_rule
@few
@given(seeds, counts)
def test_translation_and_flip(name, seed, G):
    "What is moved or mirrored together keeps its answers (whole numbers, so that overlaps and distances are the same)."
    gts, labels, preds, logits = scene(seed, G, whole=True)
    before, priors = assign(name, gts, labels, preds, logits).gt_inds, RULES[name][1]
    boxes = priors is ANCHORS
    moved = priors + 32 if boxes else priors + torch.tensor([32., 32, 0, 0])
    assert torch.equal(before, assign(name, gts + 32, labels, preds + 32, logits, moved).gt_inds)
    mirror = lambda b: torch.stack([96 - b[:, 2], b[:, 1], 96 - b[:, 0], b[:, 3]], dim=-1)
    flipped = mirror(priors) if boxes else torch.cat([96 - priors[:, :1], priors[:, 1:]], dim=1)
    assert torch.equal(before, assign(name, mirror(gts), labels, mirror(preds), logits, flipped).gt_inds)


@each_rule
@few
@given(seeds, st.integers(1, 3), counts, st.booleans(), st.booleans())
def test_a_batch_is_its_images_and_padding_is_nobody(name, seed, B, G, whole, own_priors):
    "What stands in a row that is not valid looks like an object, and does not matter."
    gts, labels, preds, logits = scene(seed, G, whole, B)
    valid = torch.rand(B, G, generator=torch.Generator().manual_seed(seed)) < .7
    priors = RULES[name][1]
    shapes = torch.tensor([[96, 96]] * B)
    together = assign(name, gts, labels, preds, logits, priors.expand(B, -1, -1) if own_priors else priors, shapes, gt_valid=valid)
    for b in range(B):
        alone = assign(name, gts[b][valid[b]], labels[b][valid[b]], preds[b], logits[b])
        numbers = torch.cat([torch.tensor([IGNORE, NEGATIVE]), valid[b].nonzero()[:, 0] + 1])
        assert torch.equal(together.gt_inds[b], numbers[alone.gt_inds + 1]) and together.num_gts[b] == alone.num_gts
        assert torch.equal(together.labels[b], alone.labels)
        torch.testing.assert_close(together.max_overlaps[b], alone.max_overlaps)
        if alone.assign_metrics is not None: torch.testing.assert_close(together.assign_metrics[b], alone.assign_metrics)


@each_rule
@few
@given(seeds, counts)
def test_a_prior_that_is_not_valid_might_as_well_be_absent(name, seed, G):
    gts, labels, preds, logits = scene(seed, G)
    valid = torch.rand(45, generator=torch.Generator().manual_seed(seed)) < .8
    result = assign(name, gts, labels, preds, logits, prior_valid=valid)
    levels = [int(part.sum()) for part in valid.split(LEVELS)]
    alone = RULES[name][0].assign(RULES[name][1][valid], gts, labels, **extras(name, preds[valid], logits[valid], levels=levels))
    assert (result.gt_inds[~valid] == IGNORE).all() and (result.max_overlaps[~valid] == -1).all()
    assert torch.equal(result.gt_inds[valid], alone.gt_inds)


@each_place
@few
@given(seeds, counts)
def test_nobody_in_an_ignored_region_is_negative(name, seed, G):
    "And nothing else changes (queries are nowhere); the rule with a threshold leaves such priors out altogether."
    gts, labels, preds, logits = scene(seed, G)
    region, priors = torch.tensor([[0., 0, 60, 40]]), RULES[name][1]
    if name in ('atss', 'ddod'):
        deep = bbox_overlaps(priors, region, mode='iof')[:, 0] > .5
        careful = ATSSAssigner(5, RULES[name][0].alpha, ignore_iof_thr=.5)
        answer = careful.assign(priors, gts, labels, gt_bboxes_ignore=region, **extras(name, preds, logits)).gt_inds
        wanted = assign(name, gts, labels, preds, logits, prior_valid=~deep).gt_inds
    else:
        answer, plain = (assign(name, gts, labels, preds, logits, gt_bboxes_ignore=r).gt_inds for r in (region, None))
        wanted = torch.where(points_inside(POINTS, region[None])[0, 0] & (plain == NEGATIVE), IGNORE, plain)
    assert torch.equal(answer, wanted)


@each_rule
@few
@given(seeds, counts, st.booleans())
def test_the_trace_ends_in_the_answer_and_gives_reasons(name, seed, G, regions):
    gts, labels, preds, logits = scene(seed, G, whole=seed % 2 == 0)
    valid = torch.arange(45) % 7 > 0
    ignored = torch.tensor([[0., 0, 40, 30]]) if regions else None
    t = RULES[name][0].trace(RULES[name][1], gts, labels, gt_bboxes_ignore=ignored, prior_valid=valid, **extras(name, preds, logits))
    assert torch.equal(t.gt_inds, assign(name, gts, labels, preds, logits, prior_valid=valid, gt_bboxes_ignore=ignored).gt_inds)
    for p in range(0, 45, 4):
        code, words = int(t.gt_inds[p]), t.why(p)
        assert f' {p} is ' in words and ('is ignored' in words, 'is negative' in words) == (code == IGNORE, code == NEGATIVE), words
        if code > 0: assert f'positive for object {code - 1}' in words
        assert all(t.why_not(p, i) for i in range(G))
    assert t.orphans == [i for i in range(G) if not (t.gt_inds == i + 1).any()]
    assert all(('orphan' in t.why_object(i)) == (i in t.orphans) for i in range(G))
    assert len(str(t).splitlines()) == len(t.steps) + 1 and all(codes.shape == (45,) for codes in t.steps.values())


@few
@given(st.integers(0, 12), st.integers(0, 12), seeds, st.integers(0, 4))
def test_the_cheapest_pairing(P, G, seed, places):
    "Our own solver finds the same sum as SciPy's, ties or not, also when there are fewer queries than objects."
    scipy = pytest.importorskip('scipy.optimize', reason='SciPy is not here to compare with')
    cost = np.random.default_rng(seed).normal(size=(P, G)).round(places)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, 'scipy.optimize', None)
        rows, columns = linear_assignment(cost)
    assert len(set(rows.tolist())) == len(set(columns.tolist())) == len(rows) == min(P, G)
    theirs = scipy.linear_sum_assignment(cost)
    assert abs(cost[rows, columns].sum() - cost[theirs].sum()) < 1e-9


@few
@given(seeds, st.integers(1, 8))
def test_prices_do_not_change_the_pairing(seed, G):
    "What is added to a whole object's costs is paid by every pairing."
    table = np.random.default_rng(seed).normal(size=(G, 12))
    assert (cheapest_pairs(table) == cheapest_pairs(table + np.arange(G)[:, None] * 3.)).all()
