"Our COCO evaluation equals pycocotools' on random data with crowds, ties, sizes and empty images (user need 13a; EVAL-1, 2, 3, 4, 16, 18)."
import contextlib
import io
import json
from dataclasses import replace

import numpy as np
import pytest

from learndet.data.base_dataset import FlatGT
from learndet.evaluation.average_precision import FlatPredictions, bbox_areas
from learndet.evaluation.coco_metric import CocoMetric, coco_evaluate, coco_evaluate_masks, results_as_json

pytest.importorskip('pycocotools')
from pycocotools import mask as coco_mask  # noqa: E402
from pycocotools.coco import COCO  # noqa: E402
from pycocotools.cocoeval import COCOeval  # noqa: E402

I, K = 20, 4


def random_boxes(r, n, ties):
    xy, wh = r.rand(n, 2) * 300, np.exp(r.uniform(np.log(6), np.log(250), (n, 2)))
    boxes = np.concatenate([xy, xy + wh], 1)
    return boxes.round() if ties else boxes


def random_case(seed, ties=True, crowds=True, objects=6, detections=12):
    "Objects and detections; some images have neither, many scores and overlaps are equal if `ties`."
    r = np.random.RandomState(seed)
    gts, dets = [], []
    for i in range(I):
        n, m = r.randint(0, objects + 1), r.randint(0, detections + 1)
        boxes, labels = random_boxes(r, n, ties), r.randint(0, K, n)
        gts.append((np.full(n, i), boxes, labels))
        found, names = random_boxes(r, m, ties), r.randint(0, K, m)
        if n and m:
            pick, near = r.randint(0, n, m), r.rand(m) < .75
            moved = boxes[pick] + (r.randn(m, 4) * r.choice([0, 1, 5, 20], (m, 1))).round(0 if ties else 3)
            moved[:, 2:] = np.maximum(moved[:, 2:], moved[:, :2] + 1)
            found[near], names[near] = moved[near], np.where(r.rand(m) < .85, labels[pick], names)[near]
        dets.append((np.full(m, i), found, r.rand(m).round(1 if ties else 9), names))
    index, boxes, labels = (np.concatenate(column) for column in zip(*gts))
    area = bbox_areas(boxes) * r.choice([1, .7], len(boxes))
    area[:3] = [32 ** 2, 96 ** 2, 32 ** 2 - 1e-6]                                    # on the borders between sizes
    gt = FlatGT([5 * i + 3 for i in range(I)], index.astype(int), boxes, labels.astype(int), area,
                (r.rand(len(boxes)) < .15) & crowds, None, tuple('abcd'), [(600, 600)] * I, (1, 2, 5, 9))
    index, boxes, scores, labels = (np.concatenate(column) for column in zip(*dets))
    return gt, FlatPredictions(index.astype(int), boxes, scores, labels.astype(int))


def xywh(box): return [float(box[0]), float(box[1]), float(box[2] - box[0]), float(box[3] - box[1])]


def reference(gt, pred, kind='bbox', class_free=False, max_dets=None):
    "pycocotools' answer, from innocent ids."
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = dict(
            images=[dict(id=k, height=600, width=600) for k in gt.img_ids], categories=[dict(id=k, name=str(k)) for k in gt.source_ids],
            annotations=[dict(id=n + 1, image_id=gt.img_ids[gt.img_index[n]], category_id=gt.source_ids[gt.labels[n]], bbox=xywh(gt.bboxes[n]),
                              area=float(gt.area[n]), iscrowd=int(gt.ignore[n]), segmentation=gt.masks[n] if gt.masks else [])
                         for n in range(len(gt))])
        coco.createIndex()
        rows = results_as_json(gt, pred, kind)
        if kind == 'bbox' and pred.masks is None: assert json.loads(json.dumps(rows))
        theirs = COCOeval(coco, coco.loadRes(rows), kind)
        if class_free: theirs.params.useCats = 0
        if max_dets: theirs.params.maxDets = list(max_dets)
        theirs.evaluate(), theirs.accumulate()
        if not max_dets: theirs.summarize()
    return theirs


@pytest.mark.parametrize('seed', range(12))
def test_every_entry_of_every_table(seed):
    gt, pred = random_case(seed, ties=seed % 2 == 0, crowds=seed % 3 > 0)
    ours, theirs = coco_evaluate(gt, pred), reference(gt, pred)
    assert np.abs(ours.precision - theirs.eval['precision'][..., 2]).max() <= 1e-6
    assert np.abs(ours.recall - theirs.eval['recall']).max() <= 1e-6
    assert np.abs(np.array(list(ours.stats().values())) - theirs.stats).max() <= 1e-6


@pytest.mark.parametrize('seed', [3, 4])
def test_more_than_a_hundred_detections(seed):
    gt, pred = random_case(seed, detections=700)
    assert np.bincount(pred.img_index * K + pred.labels).max() > 100
    ours, theirs = coco_evaluate(gt, pred), reference(gt, pred)
    assert np.abs(np.array(list(ours.stats().values())) - theirs.stats).max() <= 1e-6


def test_masks():
    r = np.random.RandomState(0)
    gt, pred = random_case(7, objects=3, detections=5)
    def mask(box):
        y, x = np.mgrid[:120, :120] + .5
        cx, cy, w, h = (box[0] + box[2]) / 10, (box[1] + box[3]) / 10, (box[2] - box[0]) / 5, (box[3] - box[1]) / 5
        m = coco_mask.encode(np.asfortranarray((((x - cx) / w) ** 2 + ((y - cy) / h) ** 2 < .25), np.uint8))
        return dict(size=m['size'], counts=m['counts'].decode())
    gt.masks = [mask(b) for b in gt.bboxes]
    gt.area = coco_mask.area(gt.masks).astype(float) * r.choice([1, 20], len(gt))
    pred = replace(pred, masks=[mask(b) for b in pred.bboxes])
    ours, theirs = coco_evaluate_masks(gt, pred), reference(gt, pred, 'segm')
    assert np.abs(np.array(list(ours.stats().values())) - theirs.stats).max() <= 1e-6


def test_masks_of_a_detector_against_the_file(tmp_path):
    "From a COCO file and tensors as a detector gives them, to the numbers of pycocotools on the same file and our result file (EVAL-1, 16)."
    torch = pytest.importorskip('torch')
    from learndet.core.samples import coco_file
    from learndet.data.coco import CocoDataset
    from learndet.structures.masks import segmentation_to_bitmap
    dataset, r = CocoDataset(str(coco_file('train')), test_mode=True), np.random.RandomState(0)
    metric = CocoMetric(metric=['bbox', 'segm'], outfile_prefix=str(tmp_path / 'found'))
    metric.set_ground_truth(dataset.ground_truth())
    for i in range(len(dataset)):
        info = dataset.get_data_info(i)
        masks = [np.roll(segmentation_to_bitmap(o['mask'], info['height'], info['width']), r.randint(-4, 5, 2), (0, 1)) for o in info['instances']]
        masks = torch.from_numpy(np.array(masks).reshape(-1, info['height'], info['width'])).bool()
        n = len(masks)
        found = dict(bboxes=torch.tensor([o['bbox'] for o in info['instances']]).reshape(n, 4) + torch.randn(n, 4), masks=masks,
                     labels=torch.tensor([o['bbox_label'] for o in info['instances']], dtype=torch.long), scores=torch.from_numpy(r.rand(n)))
        metric.process([dict(img_id=info['img_id'], pred_instances=found)])
    with contextlib.redirect_stdout(io.StringIO()):
        numbers, coco = metric.evaluate(), COCO(str(coco_file('train')))
        for kind in ('bbox', 'segm'):
            theirs = COCOeval(coco, coco.loadRes(str(tmp_path / f'found.{kind}.json')), kind)
            theirs.evaluate(), theirs.accumulate(), theirs.summarize()
            ours = [value for name, value in numbers.items() if name.startswith(f'coco/{kind}_')]
            assert np.abs(np.array(ours) - theirs.stats).max() <= 1e-6, kind
    assert 0 < numbers['coco/segm_mAP'] < 1


def test_the_size_of_a_mask_is_its_pixels_not_its_box():
    "EVAL-16: a thin diagonal stroke has a large box and few pixels; it is a small object, and a small detection."
    stroke = np.zeros((200, 200), np.uint8)
    stroke[np.arange(150), np.arange(150)] = stroke[np.arange(150), np.arange(150) + 1] = 1
    runs = coco_mask.encode(np.asfortranarray(stroke))
    box = np.array([[0., 0, 151, 150]])
    gt = FlatGT([1], np.zeros(1, int), box, np.zeros(1, int), np.array([float(stroke.sum())]), np.zeros(1, bool), [runs], ('stroke',), [(200, 200)], (1,))
    pred = FlatPredictions(np.zeros(1, int), box, np.ones(1), np.zeros(1, int), [runs])
    result = coco_evaluate_masks(gt, pred)
    assert (result.ap(area='s'), result.ap(area='m'), result.ap(area='l')) == (pytest.approx(1), -1, -1)


@pytest.mark.parametrize('seed', [0, 1, 2])
def test_proposals_without_classes(seed):
    gt, pred = random_case(seed, ties=False, detections=60)
    theirs = reference(gt, pred, class_free=True, max_dets=(5, 20, 50))
    metric = CocoMetric(metric='proposal', proposal_nums=(5, 20, 50))
    metric.set_ground_truth(gt)
    ours = metric.compute(gt, pred)
    recall = theirs.eval['recall'][:, 0]                                            # (T, A, M)
    for m, n in enumerate((5, 20, 50)): assert abs(ours[f'AR@{n}'] - recall[:, 0, m].mean()) <= 1e-6
    for a, size in enumerate('sml', 1): assert abs(ours[f'AR_{size}@50'] - recall[:, a, 2].mean()) <= 1e-6


def test_ids_that_break_the_reference_do_not_break_us():
    gt, _ = random_case(1)
    real = ~gt.ignore
    perfect = FlatPredictions(gt.img_index[real], gt.bboxes[real], np.linspace(1, .5, real.sum()), gt.labels[real])
    assert coco_evaluate(gt, perfect).ap() == pytest.approx(1)


def test_result_files_load(tmp_path):
    gt, pred = random_case(2)
    metric = CocoMetric(metric=['bbox', 'proposal_fast'], format_only=True, outfile_prefix=str(tmp_path / 'new' / 'test'))
    metric.set_ground_truth(gt)
    assert metric.compute(gt, pred) == {}
    rows = json.loads((tmp_path / 'new' / 'test.bbox.json').read_text())
    assert len(rows) == len(pred) and {row['category_id'] for row in rows} <= {1, 2, 5, 9} and {row['image_id'] for row in rows} <= set(gt.img_ids)
    assert rows[0]['bbox'] == xywh(pred.bboxes[0])
    assert {row['category_id'] for row in json.loads((tmp_path / 'new' / 'test.proposal.json').read_text())} == {1}


def test_numpy_and_torch_overlaps_agree():
    "EVAL-21."
    torch = pytest.importorskip('torch')
    from learndet.evaluation.average_precision import bbox_overlaps_numpy
    from learndet.structures.overlaps import bbox_overlaps
    r = np.random.RandomState(0)
    a, b = random_boxes(r, 40, False), random_boxes(r, 30, False)
    for mode in ('iou', 'iof'):
        for legacy in (False, True):
            theirs = bbox_overlaps(torch.tensor(a), torch.tensor(b), mode=mode, use_legacy_coordinate=legacy).numpy()
            assert np.abs(bbox_overlaps_numpy(a, b, mode, use_legacy_coordinate=legacy) - theirs).max() < 1e-6
