"Laws of evaluation: short sentences that hold for every set of objects and detections."
from dataclasses import replace

import numpy as np
from hypothesis import given, settings, strategies as st

from learndet.data.base_dataset import FlatGT
from learndet.evaluation.average_precision import FlatPredictions, average_precision, bbox_areas, precision_recall
from learndet.evaluation.coco_metric import coco_evaluate, overlapping_pairs, pair_up, rank_in_group
from learndet.evaluation.voc_metric import mean_ap, voc_evaluate, voc_matches


@st.composite
def cases(draw):
    "A few images and classes; seeds make the boxes, so that shrinking stays quick."
    r = np.random.RandomState(draw(st.integers(0, 10_000)))
    images, classes, n, m = draw(st.integers(1, 4)), draw(st.integers(1, 3)), draw(st.integers(0, 12)), draw(st.integers(0, 20))
    def boxes(k):
        xy = r.randint(0, 60, (k, 2))
        return np.concatenate([xy, xy + r.randint(1, 60, (k, 2))], 1).astype(float)
    bboxes = boxes(n)
    gt = FlatGT(list(range(images)), r.randint(0, images, n), bboxes, r.randint(0, classes, n), bbox_areas(bboxes), r.rand(n) < .2, None,
                tuple(map(str, range(classes))), [(120, 120)] * images)
    found = boxes(m)
    if n and m: found[:m // 2] = bboxes[r.randint(0, n, m // 2)]
    return gt, FlatPredictions(r.randint(0, images, m), found, r.rand(m).round(1), r.randint(0, classes, m))


def perfect(gt):
    rows = ~gt.ignore
    return FlatPredictions(gt.img_index[rows], gt.bboxes[rows], np.ones(rows.sum()), gt.labels[rows])


few = settings(max_examples=40, deadline=None)


@few
@given(cases())
def test_a_perfect_detector_gets_everything_that_can_be_got(case):
    gt, _ = case
    for value in coco_evaluate(gt, perfect(gt)).stats().values(): assert value == -1 or 0 <= value <= 1 + 1e-9
    distinct = len(np.unique(np.column_stack([gt.img_index, gt.labels, gt.bboxes]), axis=0)) == len(gt)
    if (~gt.ignore).any() and not gt.ignore.any() and distinct: assert abs(coco_evaluate(gt, perfect(gt)).ap() - 1) < 1e-9


@few
@given(cases(), st.floats(.01, 5))
def test_only_the_order_of_scores_counts(case, factor):
    gt, pred = case
    assert coco_evaluate(gt, pred).stats() == coco_evaluate(gt, replace(pred, scores=pred.scores * factor)).stats()


@few
@given(cases(), st.integers(1, 50))
def test_pairs_are_the_same_in_any_pieces(case, chunk):
    gt, pred = case
    groups, gt_groups = pred.img_index, np.sort(gt.img_index)
    iou_of = lambda d, g: (d * 7 + g * 3) % 10 / 10
    whole, parts = overlapping_pairs(groups, gt_groups, iou_of, .3), overlapping_pairs(groups, gt_groups, iou_of, .3, chunk)
    for a, b in zip(whole, parts): assert a.tolist() == b.tolist()
    d, g = pair_up(groups, gt_groups)
    assert (groups[d] == gt_groups[g]).all() and len(d) == (groups[:, None] == gt_groups).sum()


@few
@given(cases())
def test_ranks_number_each_group_from_zero(case):
    _, pred = case
    rank = rank_in_group(pred.labels, pred.scores)
    for label in np.unique(pred.labels):
        here = pred.labels == label
        assert sorted(rank[here]) == list(range(here.sum()))
        assert (np.diff(pred.scores[here][np.argsort(rank[here])]) <= 0).all()


@few
@given(cases())
def test_an_object_is_found_once_and_a_detection_is_one_thing(case):
    gt, pred = case
    tp, fp, num = voc_matches(gt, pred)
    assert not (tp & fp).any() and tp.sum() <= num.sum()
    for k in range(len(gt.classes)): assert tp[0, pred.labels == k].sum() <= num[0, k]


@few
@given(cases())
def test_more_objects_are_found_at_a_lower_threshold(case):
    gt, pred = case
    recall = coco_evaluate(gt, pred).recall[:, :, 0, -1]
    assert (np.diff(recall, axis=0) <= 1e-12).all()


@few
@given(cases())
def test_voc_is_never_kinder_than_coco(case):
    "COCO's rule lets a detection take its second choice."
    gt, pred = case
    voc = [r['recall'][-1] if len(r['recall']) else 0 for r in voc_evaluate(gt, pred)]
    coco = coco_evaluate(gt, pred).recall[0, :, 0, -1]
    for k in range(len(gt.classes)):
        here = (gt.labels == k) & gt.ignore
        if coco[k] > -1 and not here.any(): assert coco[k] >= voc[k] - 1e-12


@few
@given(st.lists(st.booleans(), max_size=30), st.integers(0, 5))
def test_average_precision_lies_between_its_curves(right, missed):
    right = np.array(right, bool)
    recall, precision = precision_recall(right, ~right, right.sum() + missed)
    area = average_precision(recall, precision)
    assert 0 <= area <= 1 and abs(average_precision(recall, precision, '101points') - area) < .5
    if right.all() and len(right) and not missed: assert abs(area - 1) < 1e-6


def test_no_classes_at_all():
    assert mean_ap([]) == 0.
