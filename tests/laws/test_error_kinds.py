"Laws of the kinds of error and of the confusion matrix: everything is counted once, and agrees with the evaluation."
import numpy as np
from hypothesis import given, settings, strategies as st

from learndet.evaluation.average_precision import FlatPredictions, flat_ground_truth
from learndet.evaluation.coco_metric import match_ranks, overlapping_pairs, paired_ious, rank_in_group
from learndet.evaluation.error_kinds import (BACKGROUND, CORRECT, IGNORED, KINDS, confusion_matrix, error_kinds, kind_costs, mend,
                                             pair_off, worst_images)

K, CLASSES = 3, ('a', 'b', 'c')


@st.composite
def datasets(draw, ignored=True):
    "Few places, so that boxes meet; scores with ties."
    rng, images = np.random.RandomState(draw(st.integers(0, 10_000))), draw(st.integers(1, 3))
    def boxes(n):
        xy = rng.randint(0, 5, (n, 2)) * 4.
        return np.concatenate([xy, xy + rng.randint(2, 6, (n, 2)) * 4.], 1)
    anns = []
    for _ in range(images):
        g, i = rng.randint(0, 5), rng.randint(0, 2) * ignored
        anns.append(dict(bboxes=boxes(g), labels=rng.randint(K, size=g), bboxes_ignore=boxes(i), labels_ignore=rng.randint(K, size=i)))
    D = draw(st.integers(0, 12))
    return flat_ground_truth(anns, CLASSES), FlatPredictions(rng.randint(images, size=D), boxes(D), rng.randint(1, 9, D) / 10, rng.randint(K, size=D))


@given(datasets(), st.sampled_from([.3, .5, .75]))
@settings(max_examples=60, deadline=None)
def test_hits_are_the_hits_of_coco(data, iou_thr):
    gt, pred = data
    errors = error_kinds(gt, pred, iou_thr)
    order = np.argsort(gt.img_index * K + gt.labels, kind='stable')
    pairs = overlapping_pairs(pred.img_index * K + pred.labels, (gt.img_index * K + gt.labels)[order],
                              lambda d, g: paired_ious(pred.bboxes[d], gt.bboxes[order[g]], gt.ignore[order[g]]), iou_thr)
    rank = rank_in_group(pred.img_index * K + pred.labels, pred.scores)
    right, neither = match_ranks(pairs, rank, gt.ignore[order][:, None], gt.ignore[order], np.array([iou_thr]))
    assert ((errors.kind == CORRECT) == right[:, 0, 0]).all() and ((errors.kind == IGNORED) == neither[:, 0, 0]).all()
    took = errors.obj[errors.kind == CORRECT]
    assert len(set(took)) == len(took) and (errors.obj[errors.kind == BACKGROUND] == -1).all() and not gt.ignore[took].any()


@given(datasets(), st.sampled_from([.1, .4, .6, 1.]))
@settings(max_examples=60, deadline=None)
def test_everything_is_counted_once(data, score_thr):
    gt, pred = data
    errors = error_kinds(gt, pred)
    n, strong = errors.counts(score_thr), pred.scores >= score_thr
    assert sum(n[k] for k in KINDS) == strong.sum() and n['missed'] + n['correct'] <= (~gt.ignore).sum()
    matrix = confusion_matrix(gt, pred, score_thr)
    got, counts = pair_off(gt, pred, score_thr)
    assert (matrix[:K].sum(1) == np.bincount(gt.labels[~gt.ignore], minlength=K)).all() and matrix[:, :K].sum() == counts.sum()
    assert matrix[:K, :K].trace() == n['correct'] and matrix[K, K] == 0 and len(set(got[got >= 0])) == (got >= 0).sum()
    worst = worst_images(gt, pred, errors, score_thr, n=9)
    assert sum(row['false'] for row in worst) == strong.sum() - n['correct'] - n['ignored']


@given(datasets(), st.sampled_from([.2, .5, .8]))
@settings(max_examples=40, deadline=None)
def test_a_kind_does_not_depend_on_weaker_detections(data, score_thr):
    gt, pred = data
    keep = pred.scores >= score_thr
    fewer = FlatPredictions(pred.img_index[keep], pred.bboxes[keep], pred.scores[keep], pred.labels[keep])
    whole, cut = error_kinds(gt, pred), error_kinds(gt, fewer)
    assert (whole.kind[keep] == cut.kind).all() and (whole.obj[keep] == cut.obj).all() and whole.counts(score_thr) == cut.counts()


@given(datasets(ignored=False))
@settings(max_examples=25, deadline=None)
def test_mending_all_kinds_one_after_the_other_leaves_hits_and_objects_of_theirs(data):
    gt, pred = data
    before = pred.bboxes.copy(), pred.labels.copy(), len(gt)
    for kind in ('localization', 'classification', 'both', 'duplicate', 'background', 'missed'): gt, pred = mend(gt, pred, error_kinds(gt, pred), kind)
    n = error_kinds(gt, pred).counts()
    assert n['missed'] == n['background'] == 0
    assert (data[1].bboxes == before[0]).all() and (data[1].labels == before[1]).all() and len(data[0]) == before[2]       # inputs are left alone


def test_nothing_at_all():
    gt = flat_ground_truth([dict(bboxes=[], labels=[])], CLASSES)
    none = FlatPredictions(np.zeros(0, int), np.zeros((0, 4)), np.zeros(0), np.zeros(0, int))
    errors = error_kinds(gt, none)
    assert errors.rates() == dict(precision=0., recall=0., f1=0.) and confusion_matrix(gt, none).sum() == 0 and errors.curve()[0].shape == (0,)
    assert set(kind_costs(gt, none, errors).values()) == {0.}
    one = FlatPredictions(np.zeros(1, int), np.array([[0., 0, 9, 9]]), np.ones(1), np.zeros(1, int))
    assert error_kinds(gt, one).kind.tolist() == [BACKGROUND] and confusion_matrix(gt, one)[K, 0] == 1
