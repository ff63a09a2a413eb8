"Laws of boxes and of their overlaps, over random boxes."
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from learndet.structures.boxes import (bbox2roi, bbox_area, bbox_cxcywh_to_xyxy, bbox_xywh_to_xyxy, bbox_xyxy_to_cxcywh,
                                       bbox_xyxy_to_xywh, clip_bboxes, flip_bboxes, get_box_wh, scale_bboxes, translate_bboxes)
from learndet.structures.overlaps import BboxOverlaps2D, bbox_overlaps

quick = settings(max_examples=25, deadline=None)
MODES = ['iou', 'iof', 'giou', 'diou', 'ciou']


@st.composite
def bboxes(draw, min_size=0, max_size=6, empty=True, limit=400):
    "(n, 4) xyxy in quarters of a pixel, so that float32 arithmetic on them is exact; boxes without area included."
    n, number = draw(st.integers(min_size, max_size)), st.integers(-limit, limit)
    size = st.integers(0 if empty else 1, limit)
    rows = [[draw(number), draw(number), draw(size), draw(size)] for _ in range(n)]
    return bbox_xywh_to_xyxy(torch.tensor(rows, dtype=torch.float32).reshape(-1, 4) / 4)


anything = st.lists(st.lists(st.floats(-1e4, 1e4, width=32), min_size=4, max_size=4), max_size=6).map(
    lambda rows: torch.tensor(rows, dtype=torch.float32).reshape(-1, 4))        # swapped corners included
shapes = st.tuples(st.integers(1, 200), st.integers(1, 200))


@quick
@given(bboxes())
def test_formats_undo_each_other(boxes):
    assert torch.equal(bbox_xywh_to_xyxy(bbox_xyxy_to_xywh(boxes)), boxes)
    assert torch.equal(bbox_cxcywh_to_xyxy(bbox_xyxy_to_cxcywh(boxes)), boxes)
    w, h = get_box_wh(boxes)
    assert torch.equal(bbox_area(boxes), w * h)


@quick
@given(anything)
def test_an_area_is_never_negative(boxes):
    assert (bbox_area(boxes) >= 0).all()
    w, h = get_box_wh(boxes)
    assert (bbox_area(boxes)[(w <= 0) | (h <= 0)] == 0).all()


@quick
@given(bboxes(), shapes, st.sampled_from(['horizontal', 'vertical', 'diagonal']))
def test_mirroring_twice_changes_nothing(boxes, shape, direction):
    once = flip_bboxes(boxes, shape, direction)
    assert torch.equal(flip_bboxes(once, shape, direction), boxes)
    assert torch.equal(bbox_area(once), bbox_area(boxes))


@quick
@given(anything, shapes)
def test_clipped_boxes_lie_in_the_image_and_clipping_again_changes_nothing(boxes, shape):
    H, W = shape
    clipped = clip_bboxes(boxes, shape)
    assert (clipped >= 0).all() and (clipped[:, 0::2] <= W).all() and (clipped[:, 1::2] <= H).all()
    assert torch.equal(clip_bboxes(clipped, shape), clipped)
    assert torch.equal(clip_bboxes(boxes[None].repeat(2, 1, 1), torch.tensor([shape, shape]))[1], clipped)


@quick
@given(bboxes(), st.sampled_from([.5, 2., 4.]), st.sampled_from([.25, 1., 8.]), st.integers(-50, 50))
def test_scaling_and_moving_can_be_undone(boxes, w, h, d):
    assert torch.equal(scale_bboxes(scale_bboxes(boxes, (w, h)), (1 / w, 1 / h)), boxes)
    assert torch.equal(translate_bboxes(translate_bboxes(boxes, (d, -d)), (-d, d)), boxes)


@quick
@given(st.lists(bboxes(max_size=3), min_size=1, max_size=4))
def test_rois_remember_whose_they_are(batch):
    rois = bbox2roi(batch)
    assert rois.shape == (sum(map(len, batch)), 5)
    for b, boxes in enumerate(batch): assert torch.equal(rois[rois[:, 0] == b, 1:], boxes)


@quick
@given(bboxes(), bboxes(), st.sampled_from(MODES))
def test_all_pairs_aligned_and_batched_agree(a, b, mode):
    table = bbox_overlaps(a, b, mode)
    assert table.shape == (len(a), len(b))
    n = min(len(a), len(b))
    torch.testing.assert_close(bbox_overlaps(a[:n], b[:n], mode, is_aligned=True), table.diagonal()[:n])
    assert torch.equal(bbox_overlaps(a.expand(3, 1, -1, 4), b.expand(2, -1, 4), mode), table.expand(3, 2, -1, -1))


@quick
@given(bboxes(), bboxes())
def test_order_and_range_of_the_measures(a, b):
    iou, iof, giou, diou, ciou = (bbox_overlaps(a, b, mode) for mode in MODES)
    assert torch.equal(iou, bbox_overlaps(b, a).T)
    assert ((iou >= 0) & (iou <= 1)).all() and (iof >= iou).all() and (iof <= 1).all()
    slack = 1e-5
    assert (giou <= iou + slack).all() and (giou >= -1 - slack).all()
    assert (diou <= iou + slack).all() and (diou >= -1 - slack).all() and (ciou <= diou + slack).all()


@quick
@given(bboxes(min_size=1, empty=False))
def test_a_box_agrees_with_itself(a):
    for mode in MODES: torch.testing.assert_close(bbox_overlaps(a, a, mode, is_aligned=True, eps=1e-9), torch.ones(len(a)))


@quick
@given(bboxes(min_size=1, empty=False), bboxes(min_size=1, empty=False))
def test_intersection_is_what_clipping_leaves(a, b):
    "IoF by another way: move b's corner to the origin, cut a at b's size, measure what is left."
    corner, size = b[:, None, :2], b[:, None, 2:] - b[:, None, :2]
    left = clip_bboxes(a[None] - corner.repeat(1, 1, 2), size[:, 0].flip(-1))             # (N, M, 4)
    torch.testing.assert_close(bbox_overlaps(a, b, 'iof'), (bbox_area(left) / bbox_area(a)).T)


@quick
@given(bboxes(empty=False), bboxes(empty=False), st.sampled_from([.5, 2., 16.]), st.integers(-99, 99))
def test_units_and_place_do_not_matter(a, b, scale, shift):
    for mode in MODES:
        torch.testing.assert_close(bbox_overlaps(a * scale + shift, b * scale + shift, mode), bbox_overlaps(a, b, mode),
                                   atol=1e-4, rtol=1e-4)


@quick
@given(bboxes(), bboxes())
def test_legacy_is_a_box_that_is_one_larger(a, b):
    one = torch.tensor([0., 0, 1, 1])
    for mode in ('iou', 'iof', 'giou'):
        assert torch.equal(bbox_overlaps(a, b, mode, use_legacy_coordinate=True), bbox_overlaps(a + one, b + one, mode))


@quick
@given(anything, anything, st.sampled_from(MODES))
def test_broken_boxes_give_finite_numbers_and_gradients(a, b, mode):
    a = a.requires_grad_()
    overlaps = bbox_overlaps(a, torch.cat([b, a.detach()]), mode)
    assert overlaps.isfinite().all()
    if overlaps.numel():
        overlaps.sum().backward()
        assert a.grad.isfinite().all()


@pytest.mark.parametrize('mode', MODES)
def test_gradients_are_right(mode):
    generator = torch.Generator().manual_seed(1)
    a = torch.rand(4, 4, generator=generator, dtype=torch.float64)
    a[:, 2:] += a[:, :2] + .5
    b = (a + torch.rand(4, 4, generator=generator, dtype=torch.float64) * .2).requires_grad_()
    measure = (lambda x: bbox_overlaps(a, x, mode)) if mode != 'ciou' else (lambda x: bbox_overlaps(a, x, 'diou'))
    assert torch.autograd.gradcheck(measure, b)         # ciou holds its weight alpha constant: no true gradient


@pytest.mark.parametrize('mode', ['iou', 'iof'])
def test_nothing_on_the_way_is_larger_than_the_answer(mode):
    class Largest(TorchDispatchMode):
        most = 0
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            for tensor in out if isinstance(out, (list, tuple)) else [out]: self.most = max(self.most, tensor.numel())
            return out
    a, b = torch.rand(50, 4), torch.rand(60, 4)
    with Largest() as watch: bbox_overlaps(a, b, mode)
    assert watch.most == 50 * 60


def test_whole_numbers_other_types_and_scores_are_welcome():
    a, b = torch.tensor([[0, 0, 10, 10]]), torch.tensor([[5, 0, 15, 10]])
    assert bbox_overlaps(a, b).item() == pytest.approx(1 / 3)
    assert bbox_overlaps(a.double(), b.float()).dtype == torch.float64
    scored = torch.cat([b, b[:, :1]], dim=1)
    assert BboxOverlaps2D()(a, scored).item() == pytest.approx(1 / 3)


@pytest.mark.parametrize('call, words', [
    (lambda: bbox_overlaps(torch.zeros(2, 4), torch.zeros(3, 4), is_aligned=True), r'\(2, 4\) and \(3, 4\)'),
    (lambda: bbox_overlaps(torch.zeros(2, 3), torch.zeros(3, 4)), r'got \(2, 3\)'),
    (lambda: bbox_overlaps(torch.zeros(2, 4), torch.zeros(3, 4), mode='IoU'), "got 'IoU'"),
    (lambda: BboxOverlaps2D(dtype='fp32'), "got 'fp32'"),
    (lambda: flip_bboxes(torch.zeros(2, 4), (3, 3), 'up'), "got 'up'")])
def test_faults_are_named(call, words):
    with pytest.raises(ValueError, match=words): call()
