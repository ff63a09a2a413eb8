"Laws of suppression, over random boxes with ties, repeated boxes and boxes without area."
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from learndet.core.fast_paths import use_torchvision
from learndet.structures import nms as module
from learndet.structures.nms import (NMS, PostProcess, SoftNMS, batch_nms, batched_nms, mask_matrix_nms, matrix_nms,
                                     multiclass_nms, nms, removed_by, soft_nms)
from learndet.structures.overlaps import bbox_overlaps

quick = settings(max_examples=25, deadline=None)
thresholds = st.sampled_from([0., .25, .3, .5, .7, 1.])


@st.composite
def scored(draw, max_size=14, classes=3):
    "Boxes on a coarse grid, so that overlaps tie with thresholds; scores from six values, so that they tie too."
    n = draw(st.integers(0, max_size))
    rows = [[draw(st.integers(0, 8)), draw(st.integers(0, 8)), draw(st.integers(0, 6)), draw(st.integers(0, 6))] for _ in range(n)]
    boxes = torch.tensor(rows, dtype=torch.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    column = lambda values: draw(st.lists(values, min_size=n, max_size=n))
    return boxes, torch.tensor(column(st.integers(1, 6))).float() / 8, torch.tensor(column(st.integers(0, classes - 1)), dtype=torch.long)


def greedy(boxes, scores, idxs, thr):
    "The rule, a box at a time."
    keep, ious = [], bbox_overlaps(boxes, boxes)
    for i in sorted(range(len(scores)), key=lambda i: -scores[i]):
        if not any(idxs[i] == idxs[k] and ious[k, i] > thr for k in keep): keep.append(i)
    return keep


@quick
@given(scored(), thresholds)
def test_every_way_is_the_greedy_rule(data, thr):
    boxes, scores, idxs = data
    alone, grouped = greedy(boxes, scores, idxs * 0, thr), greedy(boxes, scores, idxs, thr)
    for compiled in (True, False):
        with use_torchvision(compiled):
            assert nms(boxes, scores, thr).tolist() == alone
            assert nms(boxes.double(), scores.double(), thr).tolist() == alone
            assert batched_nms(boxes, scores, idxs, thr).tolist() == grouped
    for block in (1, 3, 64): assert module._nms_blocks(boxes, scores, thr, block).tolist() == alone
    if thr > 0: assert soft_nms(boxes, scores, thr, method='naive')[0].tolist() == greedy(boxes, scores, idxs * 0, thr - 1e-6)    # it drops at IoU >= thr


@quick
@given(scored(), thresholds)
def test_who_stays_and_who_removed_whom(data, thr):
    boxes, scores, _ = data
    keep, killer = nms(boxes, scores, thr), removed_by(boxes, scores, thr)
    between = bbox_overlaps(boxes[keep], boxes[keep]).triu(1)
    assert not (between > thr).any()                            # those who stay leave each other alone
    assert scores[keep].tolist() == sorted(scores[keep].tolist(), reverse=True)
    gone = (killer >= 0).nonzero()[:, 0]
    assert sorted(gone.tolist() + keep.tolist()) == list(range(len(boxes)))
    assert (bbox_overlaps(boxes[gone], boxes[killer[gone]], is_aligned=True) > thr).all()
    assert (scores[killer[gone]] >= scores[gone]).all() and set(killer[gone].tolist()) <= set(keep.tolist())


@quick
@given(scored(), thresholds, st.randoms(use_true_random=False))
def test_the_order_of_the_input_does_not_matter(data, thr, random):
    boxes, scores, idxs = data
    scores = scores + torch.arange(len(scores)) * 1e-3          # no ties: they are decided by order
    order = list(range(len(boxes)))
    random.shuffle(order)
    again = batched_nms(boxes[order], scores[order], idxs[order], thr)
    assert [order[i] for i in again.tolist()] == batched_nms(boxes, scores, idxs, thr).tolist()


def test_the_loop_over_groups_and_the_shift_agree():
    for seed in range(3):
        g = torch.Generator().manual_seed(seed)
        boxes = torch.rand(1500, 4, generator=g) * 300
        boxes[:, 2:] = boxes[:, :2] + torch.rand(1500, 2, generator=g) * 80
        scores, idxs = torch.rand(1500, generator=g), torch.randint(-3, 90, (1500,), generator=g)
        shifted = nms(module._apart(boxes, idxs), scores.double(), .5)
        assert torch.equal(batched_nms(boxes, scores, idxs, .5), shifted)


def test_a_class_number_does_not_decide_about_a_box():
    "With float32 offsets this pair lives or dies by its class."
    pair, scores = torch.tensor([[0., 0, 10, 10], [0., 0, 10, 5.003], [1300, 0, 1333, 10]]), torch.tensor([.9, .8, .7])
    for c in (0, 1, 79, 1202): assert batched_nms(pair, scores, torch.tensor([c, c, 0]), .5).tolist() == [0, 2]


@quick
@given(st.lists(scored(max_size=8), min_size=1, max_size=3), thresholds, st.integers(1, 10))
def test_a_batch_is_its_images(images, thr, max_num):
    B, N = len(images), max(len(scores) for _, scores, _ in images)
    boxes, scores = torch.full((B, N, 4), torch.nan), torch.full((B, N), 9.)            # padding is nonsense on purpose
    groups, valid = torch.full((B, N), 2), torch.zeros(B, N, dtype=torch.bool)
    for b, (x, s, g) in enumerate(images):
        n = len(s)
        boxes[b, :n], scores[b, :n], groups[b, :n], valid[b, :n] = x, s, g, True
    inds, found = batch_nms(boxes, scores, groups, valid, thr, max_num)
    assert inds.shape == found.shape == (B, max_num)
    for b, (x, s, g) in enumerate(images):
        assert inds[b, found[b]].tolist() == greedy(x, s, g, thr)[:max_num]
        assert (inds[b, ~found[b]] == 0).all() and (found[b].int().diff() <= 0).all()
    if N:
        clean = torch.where(valid[..., None], boxes, 0)
        for way in (module._survivors, module._survivors_at_once):
            assert way(clean, scores, groups, valid, thr).sum() == sum(len(greedy(*image, thr)) for image in images)


def test_many_boxes_go_in_several_calls(monkeypatch):
    g = torch.Generator().manual_seed(0)
    boxes = torch.rand(5, 9000, 4, generator=g)
    boxes[..., 2:] += boxes[..., :2]
    seen = []
    monkeypatch.setattr(module, '_survivors', lambda b, s, g, v, t: seen.append(len(b)) or v)
    inds, found = batch_nms(boxes, torch.rand(5, 9000, generator=g), torch.zeros(5, 9000).long(), torch.ones(5, 9000).bool(), .5, 7)
    assert seen == [3, 2] and found.all() and inds.shape == (5, 7)


def test_one_call_and_no_other_wait(monkeypatch):
    "What a GPU executes asks the host for nothing but the result of the single suppression."
    calls, waits = [], ('nonzero', '_local_scalar_dense', 'masked_select', 'unique', 'item', 'is_nonzero', 'equal')

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            assert not any(func.__name__.split('.')[0].lstrip('_').startswith(wait.lstrip('_')) for wait in waits), func
            if func.__name__.startswith(('index.', 'index_put')):
                assert all(i is None or i.dtype != torch.bool for i in args[1]), func
            return func(*args, **(kwargs or {}))
    monkeypatch.setattr(module, 'nms', lambda boxes, scores, thr: calls.append(boxes.dtype) or torch.arange(3))
    monkeypatch.setattr(module, '_survivors', module._survivors_at_once)
    boxes = torch.rand(2, 6, 4)
    with Watch(): inds, found = batch_nms(boxes, torch.rand(2, 6), torch.zeros(2, 6).long(), torch.ones(2, 6).bool(), .5, 4)
    assert calls == [torch.float64] and found.sum() == 3


def test_nonsense_never_wins_and_never_spreads():
    boxes = torch.tensor([[[0., 0, 10, 10], [0, 0, 9, 10], [torch.nan] * 4, [20, 20, torch.inf, 30]]])
    scores, zeros = torch.tensor([[.5, .4, .9, .8]]), torch.zeros(1, 4).long()
    for way in (module._survivors, module._survivors_at_once):
        ok = boxes.isfinite().all(-1)
        assert way(torch.where(ok[..., None], boxes, 0), scores, zeros, ok, .5).tolist() == [[True, False, False, False]]
    inds, found = batch_nms(boxes, torch.tensor([[.5, torch.nan, .9, .8]]), zeros, torch.ones(1, 4).bool(), .5, 4)
    assert found.tolist() == [[True, False, False, False]] and inds[0, 0] == 0


def test_empty_batches():
    for B, N in ((2, 0), (0, 5)):
        inds, found = batch_nms(torch.zeros(B, N, 4), torch.zeros(B, N), torch.zeros(B, N).long(), torch.ones(B, N).bool(), .5, 3)
        assert inds.shape == found.shape == (B, 3) and not found.any() and inds.dtype == torch.long
    assert len(batched_nms(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0).long(), .5)) == 0
    keep, scores = SoftNMS()(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0).long())
    assert keep.dtype == torch.long and len(scores) == 0


@quick
@given(scored(), st.sampled_from(['linear', 'gaussian']))
def test_soft_suppression_only_lowers_scores(data, method):
    boxes, scores, idxs = data
    for keep, new in (soft_nms(boxes, scores, method=method), SoftNMS(method=method)(boxes, scores, idxs)):
        assert len(set(keep.tolist())) == len(keep)
        assert (new <= scores[keep] + 1e-6).all() and (new[:-1] >= new[1:]).all()
        if len(scores): assert new[0] == scores.max()
    for kernel in ('linear', 'gaussian'):
        lowered = matrix_nms(boxes, scores, idxs, kernel)
        assert (lowered <= scores + 1e-6).all() and (lowered >= 0).all()
        if len(scores): assert lowered.max() == scores.max()


@quick
@given(scored(), thresholds, st.integers(1, 8), st.booleans())
def test_classes_are_suppressed_on_their_own(data, thr, max_per_img, own_boxes):
    boxes, scores, _ = data
    table = torch.stack([scores, scores.flip(0), (scores * 8).remainder(3) / 8], dim=1) if len(scores) else torch.zeros(0, 3)
    given = boxes[:, None].repeat(1, 3, 1) if own_boxes else boxes
    post = PostProcess(score_thr=.2, nms=NMS(thr), max_per_img=-1, min_bbox_size=-1)
    dets, new, labels, rows = multiclass_nms(given, table, post)
    for k in range(3):
        members = (table[:, k] > .2).nonzero()[:, 0]
        expected = members[nms(boxes[members], table[members, k], thr)]
        assert rows[labels == k].tolist() == expected.tolist()
    assert torch.equal(dets, boxes[rows]) and torch.equal(new, table[rows, labels])
    fewer = multiclass_nms(given, table, PostProcess(score_thr=.2, nms=NMS(thr), max_per_img=max_per_img, min_bbox_size=-1))
    for few, all_of_them in zip(fewer, (dets, new, labels, rows)): assert torch.equal(few, all_of_them[:max_per_img])


def test_settings_say_what_counts():
    boxes = torch.tensor([[0., 0, 10, 10], [20, 0, 20, 10], [40, 0, 50, 10], [41, 0, 51, 10]])
    scores = torch.tensor([[.05, .9], [.9, .9], [.8, 0], [0, .7]])
    found = lambda **settings: multiclass_nms(boxes, scores, PostProcess(**settings))[3].tolist()
    assert found() == [0, 2, 3]                                     # .05 is not more than .05; row 1 has no area
    assert sorted(found(min_bbox_size=-1)) == [0, 1, 1, 2, 3]
    assert found(nms=NMS(.5, class_agnostic=True)) == [0, 2]
    assert found(nms=None, max_per_img=1) == [0]
    assert found(min_bbox_size=10) == []                            # not wider than 10: the limit is exclusive
    nan = boxes.clone(); nan[2, 0] = torch.nan
    assert multiclass_nms(nan, scores, PostProcess())[3].tolist() == [0, 3]


def test_half_precision_and_gradients_go_through():
    boxes = torch.tensor([[0., 0, 10, 10], [1, 0, 11, 10], [30, 0, 40, 10]], requires_grad=True)
    scores = torch.tensor([.9, .8, .7], requires_grad=True)
    assert nms(boxes.bfloat16(), scores.bfloat16(), .5).tolist() == [0, 2]
    dets, new, *_ = multiclass_nms(boxes, scores[:, None], PostProcess())
    (dets.sum() + new.sum()).backward()
    assert boxes.grad.sum(dim=1).tolist() == [4, 0, 4] and scores.grad.tolist() == [1, 0, 1]


@pytest.mark.parametrize('call, words', [
    (lambda: nms(torch.zeros(3, 4), torch.zeros(2), .5), r'\(3, 4\) boxes for \(2,\) scores'),
    (lambda: nms(torch.zeros(3, 4), torch.zeros(3), 50), 'got 50'),
    (lambda: soft_nms(torch.zeros(3, 4), torch.zeros(3), method='hard'), "got 'hard'"),
    (lambda: matrix_nms(torch.zeros(3, 4), torch.zeros(3), torch.zeros(3).long(), 'hard'), "got 'hard'"),
    (lambda: mask_matrix_nms(torch.zeros(3, 2, 2), torch.zeros(3).long(), torch.zeros(3), kernel='hard'), "got 'hard'")])
def test_faults_are_named(call, words):
    with pytest.raises(ValueError, match=words): call()
