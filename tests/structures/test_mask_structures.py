"Masks: both kinds do the same, in every method, and faults are named."
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from learndet.core.fast_paths import use_torchvision
from learndet.structures.masks import (BitmapMasks, PolygonMasks, bitmap_to_rle, clip_polygon, crop_and_resize_masks, mask_target,
                                       paste_masks, polygon_area, polygons_to_bitmap, segmentation_to_bitmap)

H, W = 60, 80
TRIANGLE, SQUARE = [10, 5, 60, 20, 30, 50], [5, 40, 25, 40, 25, 55, 5, 55]
OUTLINES = PolygonMasks([[TRIANGLE], [SQUARE, [60, 30, 75, 30, 75, 45]]], H, W)
BITMAPS = OUTLINES.to_bitmap()
CALLS = dict(resize=((90, 200),), rescale=((133, 80),), flip=('horizontal',), pad=((64, 96),), expand=(100, 120, 7, 9),
             crop=((12, 8, 50, 44),), translate=((H, W), -13, 'vertical'), warp=([[.8, .2, 3], [-.1, 1.1, 4]], (70, 90)))


@pytest.mark.parametrize('name', CALLS)
def test_both_kinds_do_the_same(name):
    outlines, bitmaps = (getattr(masks, name)(*CALLS[name]) for masks in (OUTLINES, BITMAPS))
    assert len(outlines) == len(bitmaps) == 2
    assert (outlines.height, outlines.width) == (bitmaps.height, bitmaps.width) == bitmaps.masks.shape[1:]
    assert (outlines.to_ndarray() != bitmaps.masks).mean() < .02
    if name not in ('warp', 'translate'):           # a warped outline may leave the picture, its bitmap cannot
        assert (outlines.get_bboxes() - bitmaps.get_bboxes()).abs().max() <= 2.6
    for masks in (OUTLINES[:0], BITMAPS[:0]):
        none = getattr(masks, name)(*CALLS[name])
        assert len(none) == 0 and (none.height, none.width) == (bitmaps.height, bitmaps.width)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(-20, 100), st.integers(-20, 100)), min_size=3, max_size=8),
       st.tuples(st.integers(0, 40), st.integers(0, 40), st.integers(1, 40), st.integers(1, 40)))
def test_a_clipped_outline_lies_in_its_window(points, window):
    window = window[0], window[1], window[0] + window[2], window[1] + window[3]
    left = clip_polygon(np.array(points, float), window)
    assert (left >= np.array(window[:2]) - 1e-9).all() and (left <= np.array(window[2:]) + 1e-9).all()
    again = clip_polygon(left, window)
    assert abs(polygon_area(again.ravel()) - polygon_area(left.ravel())) < 1e-6


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 59), st.integers(0, 79), st.integers(1, 60), st.integers(1, 80), st.sampled_from([.5, 1, 2, 3.3]))
def test_a_square_and_its_box_stay_together(y, x, h, w, factor):
    "The box, moved by the box's own arithmetic, is the box of the moved mask, up to the pixels it cuts."
    h, w = min(h, H - y), min(w, W - x)
    mask = np.zeros((1, H, W), np.uint8)
    mask[0, y:y + h, x:x + w] = 1
    masks, box = BitmapMasks(mask), np.array([x, y, x + w, y + h])
    assert masks.get_bboxes()[0].tolist() == box.tolist()
    assert masks.flip('diagonal').get_bboxes()[0].tolist() == [W - box[2], H - box[3], W - box[0], H - box[1]]
    big = masks.rescale(factor)
    if big.areas[0]: assert np.abs(big.get_bboxes()[0].numpy() - box * ([big.width / W, big.height / H] * 2)).max() <= .51
    outline = PolygonMasks([[[x, y, x + w, y, x + w, y + h, x, y + h]]], H, W)
    assert outline.areas[0] == w * h and np.array_equal(outline.to_bitmap().masks, mask)


def test_cut_out_and_pasted_back():
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        box = torch.rand(1, 4, generator=generator) * torch.tensor([8., 4, 8, 4]) + torch.tensor([0., 0, 66, 46])
        cells = crop_and_resize_masks(BITMAPS.to_tensor(), box, torch.tensor([0]), (56, 56))
        back, truth = paste_masks(cells, box, (H, W))[0], BITMAPS.to_tensor()[0].bool()
        assert (back & truth).sum() / (back | truth).sum() > .97


def test_targets_of_both_kinds_and_of_nobody():
    boxes, inds = torch.tensor([[8.3, 4.1, 61.7, 51.2], [4.2, 28, 76.6, 56]]), torch.tensor([0, 1])
    by_pixels, by_outline = (mask_target([boxes], [inds], [masks], 28) for masks in (BITMAPS, OUTLINES))
    assert by_pixels.dtype == torch.float32 and set(by_pixels.unique().tolist()) == {0., 1.}
    assert (by_pixels != by_outline).float().mean() < .04
    assert mask_target([boxes[:0]] * 2, [inds[:0]] * 2, [BITMAPS, OUTLINES]).shape == (0, 28, 28)
    for masks in (BITMAPS, OUTLINES):
        assert masks.crop_and_resize(boxes[[0, 0, 1]], (14, 7), [0, 0, 1]).to_ndarray().shape == (3, 14, 7)
        assert len(masks.crop_and_resize(boxes[:0].numpy(), (14, 7), np.zeros(0, int))) == 0


@pytest.mark.parametrize('compiled', [True, False])
def test_odd_boxes_give_empty_pieces(compiled):
    odd = torch.tensor([[10., 10, 10, 20], [200, 200, 260, 260], [-90, -90, -20, -20]])
    with use_torchvision(compiled):
        assert crop_and_resize_masks(BITMAPS.to_tensor(), odd, torch.zeros(3).long(), (7, 7)).abs().max() < 1e-6
    assert not paste_masks(torch.ones(3, 7, 7), odd, (H, W)).any()


def test_indexing_keeps_order_and_kind():
    for masks in (BITMAPS, OUTLINES):
        for index in (1, -1, slice(1, 2), [1], np.array([1]), [False, True], np.array([False, True])):
            assert masks[index].areas.tolist() == masks.areas[1:].tolist() and type(masks[index]) is type(masks)
        assert len(masks[[]]) == 0 and len(masks[np.zeros(0, int)]) == 0 and len(type(masks).cat([masks, masks[[0]]])) == 3
        assert len(list(masks)) == 2


def test_results_can_be_written_as_json():
    import json
    text = json.dumps([bitmap_to_rle(mask.astype(bool)) for mask in BITMAPS])
    assert np.array_equal(segmentation_to_bitmap(json.loads(text)[1], H, W), BITMAPS.masks[1])


@pytest.mark.parametrize('call, words', [
    (lambda: polygons_to_bitmap([[1, 2, 3, 4, 5]], 9, 9), 'got 5 numbers'),
    (lambda: segmentation_to_bitmap(dict(size=[9, 8], counts=[72]), 8, 9), r'\(9, 8\) .*\(8, 9\)'),
    (lambda: BitmapMasks(np.zeros((9, 9))), r'got \(9, 9\)'),
    (lambda: BitmapMasks(np.zeros((1, 9, 9)), 9, 8), r'\(9, 9\) for an image of \(9, 8\)'),
    (lambda: PolygonMasks([[SQUARE], [[1, 2, 3]]], 9, 9), 'mask 1'),
    (lambda: BITMAPS.flip('up'), "got 'up'"), (lambda: OUTLINES.flip('up'), "got 'up'"),
    (lambda: OUTLINES.translate((9, 9), 1, 'up'), "got 'up'")])
def test_faults_are_named(call, words):
    with pytest.raises(ValueError, match=words): call()
