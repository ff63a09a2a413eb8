"""Assigners and samplers as they are usually written: a loop over images, one over objects, masks and indices.

They are what `task_modules.py` compares with, and `tests/task_modules/test_benchmark_loops.py` holds that they mean the same.
"""
import torch
import torch.nn.functional as F

from learndet.structures.boxes import bbox_xyxy_to_cxcywh
from learndet.structures.nms import nms
from learndet.structures.overlaps import bbox_overlaps
from learndet.task_modules.assigners.assign_result import box_centers, depth_inside
from learndet.task_modules.assigners.center_region_assigner import scale_about_center
from learndet.task_modules.assigners.hungarian import linear_assignment


def max_iou_rules(iou, pos, neg):
    "The four rules on a whole matrix (G, P)."
    best, index = iou.max(dim=0)
    codes = torch.full_like(index, -1)
    codes[best < neg] = 0
    codes[best >= pos] = index[best >= pos] + 1
    for i, most in enumerate(iou.amax(dim=1)):
        if most > 0: codes[iou[i] == most] = i + 1
    return codes


def max_iou(priors, gts, pos=.5, neg=.4):
    return torch.stack([max_iou_rules(bbox_overlaps(boxes, priors), pos, neg) for boxes in gts])


def approx_max_iou(priors, gts, approxs, pos=.5, neg=.4):
    out = []
    for boxes in gts:
        iou = bbox_overlaps(boxes, approxs.flatten(0, 1)).view(len(boxes), *approxs.shape[:2]).amax(2)
        out.append(max_iou_rules(iou, pos, neg))
    return torch.stack(out)


def grid(priors, gts, responsible_flags, pos=.5, neg=.5):
    out = []
    for boxes, responsible in zip(gts, responsible_flags):
        iou = bbox_overlaps(boxes, priors)
        codes = torch.full((len(priors),), -1)
        codes[iou.amax(0) <= neg] = 0
        iou[:, ~responsible] = -1.
        best, index = iou.max(dim=0)
        codes[(best > pos) & responsible] = index[(best > pos) & responsible] + 1
        for i, most in enumerate(iou.amax(dim=1)):
            if most > 0: codes[(iou[i] == most) & responsible] = i + 1
        out.append(codes)
    return torch.stack(out)


def point(points, gts, scale=4, num=3):
    level, out = torch.log2(points[:, 2]).int(), []
    for boxes in gts:
        codes, best = torch.zeros(len(points), dtype=torch.long), torch.full((len(points),), torch.inf)
        sizes = (boxes[:, 2:] - boxes[:, :2]).clamp(min=1e-6)
        wanted = ((sizes / scale).log2().sum(1) / 2).int().clamp(int(level.min()), int(level.max()))
        for i, box in enumerate(boxes):
            here = (level == wanted[i]).nonzero()[:, 0]
            away = ((points[here, :2] - box_centers(box)) / sizes[i]).norm(dim=1)
            values, near = away.topk(min(num, len(here)), largest=False)
            near = here[near]
            better = values < best[near]
            codes[near[better]], best[near[better]] = i + 1, values[better]
        out.append(codes)
    return torch.stack(out)


def uniform(priors, gts, preds, pos=.15, neg=.7, times=4):
    out = []
    for boxes, pred in zip(gts, preds):
        codes = torch.where(bbox_overlaps(boxes, pred).amax(0) > neg, -1, 0)
        near = [[torch.cdist(bbox_xyxy_to_cxcywh(box[None]), bbox_xyxy_to_cxcywh(source), p=1)[0].topk(times, largest=False).indices
                 for box in boxes] for source in (pred, priors)]
        for rank in range(times):
            for side in near:
                for i, rows in enumerate(side):
                    iou = bbox_overlaps(priors[rows[rank], None], boxes[i, None]).item()
                    codes[rows[rank]] = i + 1 if iou >= pos and iou > 0 else -1
        out.append(codes)
    return torch.stack(out)


def center_region(priors, gts, pos_scale=.2, neg_scale=.5, min_iof=.01):
    "Codes alone, all objects of one class: cores from the largest object to the smallest, then the shadows of the others."
    out = []
    for boxes in gts:
        codes, shadows = torch.zeros(len(priors), dtype=torch.long), {}
        for i in (boxes[:, 2:] - boxes[:, :2]).prod(1).argsort(descending=True, stable=True).tolist():
            core, shadows[i] = ((bbox_overlaps(priors, scale_about_center(boxes[i, None], scale), mode='iof')[:, 0] > min_iof)
                                for scale in (pos_scale, neg_scale))
            core &= depth_inside(box_centers(priors), boxes[i]) > 0
            shadows[i] |= core
            codes[core] = i + 1
        before = codes.clone()
        for i, shadow in shadows.items(): codes[shadow & (before > 0) & (before != i + 1)] = 0
        out.append(codes)
    return torch.stack(out)


def region(priors, gts, featmap_sizes, num_level_anchors, anchor_scale, anchor_strides, center_ratio=.2, ignore_ratio=.5):
    out = []
    for boxes in gts:
        level = ((boxes[:, 2:] - boxes[:, :2]).prod(1).sqrt().log2() - torch.tensor(anchor_scale * anchor_strides[0]).log2() + .5).floor()
        level, parts = level.clamp(0, len(featmap_sizes) - 1).long().tolist(), []
        for l, (anchors, (H, W), stride) in enumerate(zip(priors.split(num_level_anchors), featmap_sizes, anchor_strides)):
            cell, codes = box_centers(anchors / stride), torch.zeros(len(anchors), dtype=torch.long)
            def inner(box, ratio):
                r, box = (1 - ratio) / 2, box / stride
                corners = torch.cat([box[:2] * (1 - r) + box[2:] * r, box[:2] * r + box[2:] * (1 - r)]).round().clamp(min=0)
                corners = torch.minimum(corners, corners.new_tensor([W, H, W, H]))
                return ((cell >= corners[:2]) & (cell <= corners[2:])).all(1)
            for i, box in enumerate(boxes):
                if level[i] != l: continue
                touches = bbox_overlaps(box[None], anchors)[0] > 0
                codes[inner(box, ignore_ratio) & ~(inner(box, center_ratio) & touches)] = -1
                codes[inner(box, center_ratio) & touches] = i + 1
            for i, box in enumerate(boxes):
                if abs(level[i] - l) == 1: codes[inner(box, ignore_ratio)] = -1
            parts.append(codes)
        out.append(torch.cat(parts))
    return torch.stack(out)


def atss(priors, gts, num_level_priors, topk=9):
    out, starts = [], [sum(num_level_priors[:n]) for n in range(len(num_level_priors))]
    for boxes in gts:
        iou, middle = bbox_overlaps(boxes, priors), box_centers(boxes)
        distance, best, codes = (middle[:, None] - box_centers(priors)).square().sum(-1), torch.zeros(len(priors)), torch.zeros(len(priors)).long()
        for i, box in enumerate(boxes):
            near = torch.cat([s + distance[i, s:s + n].topk(min(topk, n), largest=False).indices for s, n in zip(starts, num_level_priors)])
            own = iou[i, near]
            keep = (own >= own.mean() + own.std()) & (depth_inside(box_centers(priors[near]), box) > .01)
            near, own = near[keep], own[keep]
            better = own > best[near]
            codes[near[better]], best[near[better]] = i + 1, own[better]
        out.append(codes)
    return torch.stack(out)


def dynamic_k(cost, iou, topk):
    "Each object its k cheapest candidates (cost below inf), conflicts prior by prior; (G, P) each."
    iou = torch.where((cost < torch.inf).any(0), iou, 0.)
    taken = torch.zeros_like(cost, dtype=torch.bool)
    for i in range(len(cost)):
        k = max(int(iou[i].topk(min(topk, iou.shape[1])).values.sum()), 1)
        values, cheapest = cost[i].topk(k, largest=False)
        taken[i, cheapest[values < torch.inf]] = True
    for p in (taken.sum(0) > 1).nonzero()[:, 0].tolist():
        owner = cost[:, p].argmin()
        taken[:, p] = False
        taken[owner, p] = True
    return torch.where(taken.any(0), taken.float().argmax(0) + 1, 0)


def sim_ota(points, gts, labels, preds, scores, radius=2.5, topk=10):
    out = []
    for boxes, names, pred, score in zip(gts, labels, preds, scores):
        iou, costs = bbox_overlaps(boxes, pred), []
        for i, box in enumerate(boxes):
            inside, middle, reach = depth_inside(points[:, :2], box) > 0, box_centers(box), radius * points[:, 2:]
            near = depth_inside(points[:, :2], torch.cat([middle - reach, middle + reach], dim=1)) > 0
            target = F.one_hot(names[i], score.shape[1]).to(score).expand_as(score)
            cost = F.binary_cross_entropy(score, target, reduction='none').sum(1) - 3 * (iou[i] + 1e-7).log() + 1e5 * ~(inside & near)
            costs.append(torch.where(inside | near, cost, torch.inf))
        out.append(dynamic_k(torch.stack(costs), iou, topk))
    return torch.stack(out)


def dynamic_soft_label(points, gts, labels, preds, logits, radius=3., topk=13):
    out = []
    for boxes, names, pred, x in zip(gts, labels, preds, logits):
        iou, costs = bbox_overlaps(boxes, pred), []
        for i, box in enumerate(boxes):
            target = F.one_hot(names[i], x.shape[1]) * iou[i, :, None]
            soft = F.binary_cross_entropy_with_logits(x, target, reduction='none') * (target - x.sigmoid()).square()
            away = (points[:, :2] - box_centers(box)).norm(dim=1) / points[:, 2]
            cost = soft.sum(1) - 3 * (iou[i] + 1e-7).log() + 10 ** (away - radius).clamp(max=30)
            costs.append(torch.where(depth_inside(points[:, :2], box) > 0, cost, torch.inf))
        out.append(dynamic_k(torch.stack(costs), iou, topk))
    return torch.stack(out)


def task_aligned(priors, gts, labels, preds, scores, topk=13):
    out = []
    for boxes, names, pred, score in zip(gts, labels, preds, scores):
        iou, best, codes = bbox_overlaps(boxes, pred), torch.zeros(len(priors)), torch.zeros(len(priors), dtype=torch.long)
        for i, box in enumerate(boxes):
            values, rows = (score[:, names[i]] * iou[i] ** 6).topk(topk)
            rows = rows[(values > 0) & (depth_inside(box_centers(priors[rows]), box) > .01)]
            better = iou[i, rows] > best[rows]
            codes[rows[better]], best[rows[better]] = i + 1, iou[i, rows[better]]
        out.append(codes)
    return torch.stack(out)


def hungarian(costs, gts, labels, preds, logits, img_shape):
    "An image at a time, with a copy to the CPU for each."
    out = []
    for boxes, names, pred, x in zip(gts, labels, preds, logits):
        known = dict(gt_bboxes=boxes[None], gt_labels=names[None], bbox_preds=pred[None], cls_scores=x[None], img_shape=img_shape)
        queries, objects = linear_assignment(sum(cost(**known) for cost in costs)[0].cpu().numpy())
        codes = torch.zeros(len(pred), dtype=torch.long)
        codes[torch.as_tensor(queries)] = torch.as_tensor(objects) + 1
        out.append(codes)
    return torch.stack(out)


def draw(rows, num):
    "`num` of some indices, or all of them."
    return rows if len(rows) <= num else rows[torch.randperm(len(rows))[:num]]


def random_sample(assigned, num, pos_fraction, positives=lambda codes, most: draw((codes > 0).nonzero()[:, 0], most), negatives=None):
    "An image at a time: indices of positives and of negatives."
    out = []
    for b, codes in enumerate(assigned.gt_inds):
        pos = positives(codes, int(num * pos_fraction))
        rows = (codes == 0).nonzero()[:, 0]
        out.append((pos, negatives(b, rows, num - len(pos)) if negatives else draw(rows, num - len(pos))))
    return out


def balanced_positives(codes, num):
    "As many of each object, then anybody."
    objects = codes[codes > 0].unique()
    if (codes > 0).sum() <= num: return (codes > 0).nonzero()[:, 0]
    each = round(num / len(objects)) + 1
    chosen = torch.cat([draw((codes == i).nonzero()[:, 0], each) for i in objects])
    if len(chosen) >= num: return draw(chosen, num)
    rest = torch.ones_like(codes, dtype=torch.bool).index_fill(0, chosen, False) & (codes > 0)
    return torch.cat([chosen, draw(rest.nonzero()[:, 0], num - len(chosen))])


def balanced_negatives(overlaps, rows, num, bins=3):
    "As many of each interval of IoU, then anybody."
    most, chosen = overlaps.max(), []
    for n in range(bins):
        inside = (overlaps[rows] >= most * n / bins) & ((overlaps[rows] < most * (n + 1) / bins) | (n == bins - 1))
        chosen.append(draw(rows[inside], num // bins))
    chosen = torch.cat(chosen)
    rest = torch.zeros(len(overlaps), dtype=torch.bool).index_fill(0, rows, True).index_fill(0, chosen, False).nonzero()[:, 0]
    return torch.cat([chosen, draw(rest, num - len(chosen))])


def ohem(assigned, losses, num, pos_fraction):
    "The hardest of each kind, an image at a time."
    out = []
    for codes, loss in zip(assigned.gt_inds, losses):
        hardest = lambda rows, most: rows[loss[rows].topk(min(most, len(rows))).indices]
        pos = hardest((codes > 0).nonzero()[:, 0], int(num * pos_fraction))
        out.append((pos, hardest((codes == 0).nonzero()[:, 0], num - len(pos))))
    return out


def score_hlr_negatives(bboxes, scores, rows, num, score_thr=.05, iou_thr=.5):
    "The negatives of hierarchical local rank, an image at a time: groups of suppression, rank by rank."
    high = rows[scores[rows] > score_thr]
    if len(high) == 0: return draw(rows, num)
    keep = nms(bboxes[high], scores[high], iou_thr)
    group = (bbox_overlaps(bboxes[high[keep]], bboxes[high]) > iou_thr).float().argmax(0)
    place = torch.zeros(len(high))
    for g in range(len(keep)):
        members = (group == g).nonzero()[:, 0]
        place[members[scores[high[members]].argsort(descending=True)]] = torch.arange(len(members), dtype=torch.float32)
    ranked = high[(place - scores[high]).argsort()]
    if len(ranked) >= num: return ranked[:num]
    return torch.cat([ranked, draw(rows[scores[rows] <= score_thr], num - len(ranked))])
