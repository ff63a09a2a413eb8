"The same numbers as torchvision's operations, as pycocotools, and as MMDetection 3.3.0 (its outputs are written down here)."
import numpy as np
import pytest
import torch

from learndet.core.fast_paths import torchvision_ops, use_torchvision
from learndet.structures.boxes import (bbox2roi, bbox_area, bbox_cxcywh_to_xyxy, bbox_xywh_to_xyxy, bbox_xyxy_to_cxcywh,
                                       bbox_xyxy_to_xywh, clip_bboxes)
from learndet.structures.masks import (BitmapMasks, PolygonMasks, bitmap_to_rle, crop_and_resize_masks, paste_masks,
                                       segmentation_to_bitmap)
from learndet.structures.nms import batched_nms, mask_matrix_nms, nms
from learndet.structures.overlaps import bbox_overlaps

ops = torchvision_ops()
needs_torchvision = pytest.mark.skipif(ops is None, reason='torchvision does not work here')


MMDET = dict(
    iou=[.71794873, 0., 1., 0., .65625], iof=[.875, 0., 1., 0., .65625], giou=[.69294876, -.83673471, 1., 0., .65625],
    diou=[.71772403, -.51020408, 1., -.125, .64423078], ciou=[.71738571, -.51020408, float('nan'), -.125, .64421725],
    gaussian=([.89999998, .69999999, .51706541, .36307451, .28835824], [0, 2, 3, 4, 1]),
    linear=([.89999998, .69999999, .43636367, .30000001, .22857141], [0, 2, 3, 4, 1]))


def random_boxes(n, seed, size=200, whole=False):
    g = torch.Generator().manual_seed(seed)
    boxes = torch.rand(n, 4, generator=g) * size
    boxes[:, 2:] = boxes[:, :2] + torch.rand(n, 2, generator=g) * size / 3 + 1
    return boxes.round() if whole else boxes


@needs_torchvision
def test_formats():
    boxes = random_boxes(20, 0)
    for mine, name in ((bbox_xyxy_to_xywh, 'xywh'), (bbox_xyxy_to_cxcywh, 'cxcywh')):
        assert torch.equal(mine(boxes), ops.box_convert(boxes, 'xyxy', name))
    for mine, name in ((bbox_xywh_to_xyxy, 'xywh'), (bbox_cxcywh_to_xyxy, 'cxcywh')):
        torch.testing.assert_close(mine(boxes), ops.box_convert(boxes, name, 'xyxy'))
    assert torch.equal(bbox_area(boxes), ops.box_area(boxes))
    assert torch.equal(clip_bboxes(boxes - 30, (90, 120)), ops.clip_boxes_to_image(boxes - 30, (90, 120)))
    assert torch.equal(bbox2roi([boxes, boxes[:3]]), ops._utils.convert_boxes_to_roi_format([boxes, boxes[:3]]))


@needs_torchvision
@pytest.mark.parametrize('seed', range(3))
def test_overlaps(seed):
    a, b = random_boxes(40, seed), random_boxes(30, seed + 100)
    b[:10] = a[:10] + torch.rand(10, 4, generator=torch.Generator().manual_seed(seed)) * 3
    iou = ops.box_iou(a, b)
    torch.testing.assert_close(bbox_overlaps(a, b), iou)
    torch.testing.assert_close(bbox_overlaps(a, b, 'giou'), ops.generalized_box_iou(a, b))
    torch.testing.assert_close(bbox_overlaps(a, b, 'diou'), ops.distance_box_iou(a, b), atol=1e-5, rtol=1e-5)
    mine, theirs = bbox_overlaps(a, b, 'ciou'), ops.complete_box_iou(a, b)
    half = iou > .5                             # theirs weighs shape below an IoU of one half too: the paper's first version
    torch.testing.assert_close(mine[half], theirs[half], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(mine[~half], ops.distance_box_iou(a, b)[~half], atol=1e-5, rtol=1e-5)
    assert half.any() and (mine[~half] >= theirs[~half] - 1e-5).all()


@needs_torchvision
def test_a_thousand_cases_of_suppression():
    "Compiled and in PyTorch: no boxes, one box, ties in score and in overlap."
    for seed in range(1000):
        n, thr = seed % 13, (.3, .5, .7, .1)[seed % 4]
        boxes = random_boxes(n, seed, size=12, whole=seed % 3 > 0)
        scores = torch.rand(n, generator=torch.Generator().manual_seed(seed))
        if seed % 2: scores = (scores * 4).round()
        with use_torchvision(False): pure = nms(boxes, scores, thr)
        assert torch.equal(nms(boxes, scores, thr), pure), seed
        assert torch.equal(ops.nms(boxes, scores, float(np.float32(thr))), pure), seed


@needs_torchvision
@pytest.mark.parametrize('n', [0, 50, 1600])
def test_suppression_by_class(n):
    boxes, g = random_boxes(n, 5), torch.Generator().manual_seed(n)
    scores, classes = torch.rand(n, generator=g), torch.randint(0, 7, (n,), generator=g)
    mine = batched_nms(boxes, scores, classes, .5)
    assert torch.equal(mine, ops.boxes._batched_nms_vanilla(boxes, scores, classes, .5))
    if n <= 1000: assert torch.equal(mine, ops.batched_nms(boxes.double(), scores.double(), classes, .5))


@needs_torchvision
def test_roi_align_of_masks():
    g = torch.Generator().manual_seed(2)
    for case in range(100):
        masks = (torch.rand(3, 20 + case % 5, 31, generator=g) > .5).float()
        m = case % 4
        corner = torch.rand(m, 2, generator=g) * 40 - 10
        boxes = torch.cat([corner, corner + torch.rand(m, 2, generator=g) * 35 * (case % 7 > 0)], dim=1)      # some without area
        inds, shape = torch.randint(0, 3, (m,), generator=g), (1 + case % 9, 7)
        theirs = ops.roi_align(masks[:, None], torch.cat([inds[:, None].float(), boxes], dim=1), shape, 1., 0, True)[:, 0]
        for compiled in (True, False):
            with use_torchvision(compiled):
                torch.testing.assert_close(crop_and_resize_masks(masks, boxes, inds, shape), theirs, atol=1e-5, rtol=1e-5)


@needs_torchvision
def test_boxes_of_masks():
    masks = torch.rand(6, 12, 17, generator=torch.Generator().manual_seed(0)) > .96
    masks = masks[masks.any(2).any(1)]
    assert torch.equal(BitmapMasks(masks).get_bboxes() - torch.tensor([0., 0, 1, 1]), ops.masks_to_boxes(masks))   # theirs count


def test_run_lengths_and_polygons_as_pycocotools():
    rle = pytest.importorskip('pycocotools.mask')
    rng = np.random.default_rng(0)
    for case in range(60):
        H, W = rng.integers(3, 40, 2)
        parts = [(rng.random(2 * rng.integers(3, 8)) * max(H, W) * 1.2 - 3).tolist() for _ in range(rng.integers(1, 4))]    # may cross
        wanted = rle.decode(rle.merge(rle.frPyObjects(parts, H, W)))
        packed = rle.encode(np.asfortranarray(wanted))
        pixels = wanted.T.reshape(-1).astype(int)                                   # column by column
        runs = np.diff(np.r_[0, np.flatnonzero(np.diff(pixels)) + 1, len(pixels)]).tolist()
        if pixels[0]: runs = [0, *runs]                                             # the first run is one of zeros
        for segmentation in (parts, packed, dict(size=[H, W], counts=runs), bitmap_to_rle(wanted)):
            assert np.array_equal(segmentation_to_bitmap(segmentation, H, W), wanted)
        assert bitmap_to_rle(wanted)['counts'].encode() == packed['counts']
        assert PolygonMasks([parts], H, W).to_bitmap().areas[0] == rle.area(packed)


def test_overlaps_as_pycocotools():
    rle = pytest.importorskip('pycocotools.mask')
    a, b = random_boxes(12, 0).double(), random_boxes(9, 1).double()
    xywh = [bbox_xyxy_to_xywh(boxes).numpy() for boxes in (a, b)]
    crowd = np.array([0, 1] * 4 + [0], np.uint8)
    theirs = rle.iou(*xywh, crowd.tolist())
    mine = torch.where(torch.from_numpy(crowd).bool(), bbox_overlaps(a, b, 'iof'), bbox_overlaps(a, b))     # a crowd: over the detection
    np.testing.assert_allclose(mine.numpy(), theirs, atol=1e-9)


def test_numbers_of_mmdetection():
    "Its bbox_overlaps, its DIoU and CIoU losses (eps 1e-7) and its mask_matrix_nms, version 3.3.0, on the same inputs."
    a = torch.tensor([[10., 10, 50, 30], [0, 0, 8, 8], [100, 100, 140, 180], [5, 5, 6, 6], [1, 2, 9, 14]])
    b = torch.tensor([[12., 8, 47, 33], [20, 20, 28, 28], [100, 100, 140, 180], [5, 5, 5, 6], [2, 2, 9, 11]])
    for mode in ('iou', 'iof', 'giou', 'diou', 'ciou'):
        mine = bbox_overlaps(a, b, mode, is_aligned=True, eps=1e-7 if mode in ('diou', 'ciou') else 1e-6)
        known = torch.tensor(MMDET[mode])
        fine = ~known.isnan()                   # its CIoU of equal boxes is nan; ours is 1
        torch.testing.assert_close(mine[fine], known[fine], atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(mine[~fine], torch.ones(int((~fine).sum())))
    y, x = torch.arange(12)[:, None], torch.arange(12)
    masks = torch.stack([(x >= k) & (x < k + 6) & (y >= k // 2) & (y < k // 2 + 7) for k in range(5)])
    for kernel in ('gaussian', 'linear'):
        scores, labels, _, keep = mask_matrix_nms(masks, torch.tensor([0, 0, 1, 0, 1]), torch.tensor([.9, .8, .7, .6, .5]), kernel=kernel)
        torch.testing.assert_close(scores, torch.tensor(MMDET[kernel][0]), atol=1e-6, rtol=1e-6)
        assert keep.tolist() == MMDET[kernel][1]


def test_an_annotation_of_coco():
    xyxy = bbox_xywh_to_xyxy(torch.tensor([192.81, 224.8, 74.73, 33.43], dtype=torch.float64))
    assert xyxy.tolist() == pytest.approx([192.81, 224.8, 267.54, 258.23])


@needs_torchvision
def test_pasting_as_looking_up_the_whole_picture():
    g = torch.Generator().manual_seed(3)
    masks, corner = torch.rand(30, 28, 28, generator=g), torch.rand(30, 2, generator=g) * 60 - 15
    boxes, (H, W) = torch.cat([corner, corner + torch.rand(30, 2, generator=g) * 40 + .1], dim=1), (37, 45)
    x = (torch.arange(W) + .5 - boxes[:, None, 0]) / (boxes[:, None, 2] - boxes[:, None, 0]) * 2 - 1        # (n, W)
    y = (torch.arange(H) + .5 - boxes[:, None, 1]) / (boxes[:, None, 3] - boxes[:, None, 1]) * 2 - 1        # (n, H)
    grid = torch.stack([x[:, None].expand(-1, H, -1), y[:, :, None].expand(-1, -1, W)], dim=-1)
    whole = torch.nn.functional.grid_sample(masks[:, None], grid, align_corners=False)[:, 0]
    torch.testing.assert_close(paste_masks(masks, boxes, (H, W), threshold=None), whole, atol=1e-6, rtol=1e-6)
