"""Seeded inputs for assigners and match costs, what learndet answers, and what MMDetection 3.3 answers.

"""
import torch

from learndet.task_modules.assigners import (atss, dynamic_soft_label, hungarian, match_costs, sim_ota, task_aligned)

LEVELS = [(10, 8), (5, 16), (3, 32)]                                       # cells of a side, stride


def numbers(r, *shape, low=0., high=1.):
    return ((low + (high - low) * torch.rand(shape, generator=r)) * 1e4).round() / 1e4


def points():
    rows = [[(j + .5) * s, (i + .5) * s, s, s] for n, s in LEVELS for i in range(n) for j in range(n)]
    return torch.tensor(rows, dtype=torch.float32)


def anchors(r):
    p = points()
    half = p[:, 2:] * 1.5 * (1 + numbers(r, len(p), 2, low=-.2, high=.4))
    return torch.cat([p[:, :2] - half, p[:, :2] + half], dim=1)


def objects(r, G, kind):
    xy, wh = numbers(r, G, 2, low=-5, high=60), numbers(r, G, 2, low=1, high=40)
    if kind == 'grid': xy, wh = (xy / 8).round() * 8, (wh / 8).ceil() * 8                      # ties
    if kind == 'degenerate' and G: wh[0] = torch.tensor([0., 12.]); wh[-1] = 0.
    return torch.cat([xy, xy + wh], dim=1)


def case(seed, K=4):
    "Everything any of them may want to know about one image."
    r = torch.Generator().manual_seed(seed)
    G, kind = [0, 1, 2, 3, 5, 8][seed % 6], ['plain', 'grid', 'degenerate', 'plain'][seed // 6 % 4]
    p, gts = points(), objects(r, G, kind)
    if seed % 41 == 40: p = p[:0]
    P = len(p)
    away = (p[:, None, :2] - (gts[:, :2] + gts[:, 2:]) / 2).square().sum(-1) if G else torch.zeros(P, 1)
    mine = gts[away.argmin(dim=1)] if G and P else torch.zeros(P, 4)
    noise = [2., 8., 20.][seed % 3]
    bbox_preds = mine + numbers(r, P, 4, low=-noise, high=noise)
    bbox_preds = torch.cat([bbox_preds[:, :2], torch.maximum(bbox_preds[:, :2], bbox_preds[:, 2:])], dim=1)
    a = anchors(r)[:P]
    if kind == 'grid': a = (a / 4).round() * 4
    labels = torch.randint(K, (G,), generator=r)
    logits = numbers(r, P, K, low=-4, high=4)
    masks = (numbers(r, G, 12, 10) < .4).float()
    return dict(kind=kind, points=p, anchors=a, levels=[n * n for n, _ in LEVELS] if P else [0, 0, 0], gts=gts, labels=labels,
                bbox_preds=bbox_preds, logits=logits, scores=logits.sigmoid(), gt_masks=masks,
                masks=numbers(r, P, 12, 10, low=-3, high=3), regions=objects(r, seed % 3, 'plain'),
                positive_maps=(numbers(r, G, 7) < .4).float(), words=torch.tensor([True] * 5 + [False] * 2),
                word_logits=numbers(r, P, 7, low=-4, high=4), size=(88, 96))


def detr_costs(m): return [m.FocalLossCost(weight=2.), m.BBoxL1Cost(box_format='xywh', weight=5.), m.IoUCost(iou_mode='giou', weight=2.)]
def mask_costs(m): return [m.ClassificationCost(weight=2.), m.CrossEntropyLossCost(weight=5.), m.DiceCost(pred_act=True, weight=5.)]


OURS = dict(
    atss=lambda: atss.ATSSAssigner(9), atss_alpha=lambda: atss.ATSSAssigner(9, alpha=.8), atss_regions=lambda: atss.ATSSAssigner(4, ignore_iof_thr=.5),
    sim_ota=sim_ota.SimOTAAssigner, task_aligned=lambda: task_aligned.TaskAlignedAssigner(13), soft_label=dynamic_soft_label.DynamicSoftLabelAssigner,
    hungarian=lambda: hungarian.HungarianAssigner(detr_costs(match_costs)), hungarian_masks=lambda: hungarian.HungarianAssigner(mask_costs(match_costs)),
    topk_hungarian=lambda: hungarian.TopkHungarianAssigner(3))

COSTS = dict(ClassificationCost=[{}, dict(weight=2.)], FocalLossCost=[{}, dict(alpha=.5, gamma=1.5, weight=2.), dict(binary_input=True)],
             BBoxL1Cost=[{}, dict(box_format='xywh', weight=5.)], IoUCost=[{}, dict(iou_mode='iou'), dict(weight=2.)],
             CrossEntropyLossCost=[{}, dict(weight=5.)], DiceCost=[dict(pred_act=True), dict(pred_act=True, naive_dice=False, eps=1., weight=3.)],
             BinaryFocalLossCost=[{}, dict(weight=2.)])


def ours(name, c):
    "learndet's AssignResult."
    if name in ('atss', 'atss_alpha', 'atss_regions', 'task_aligned'): priors, more = c['anchors'], {}
    else: priors, more = c['points'], {}
    if 'atss' in name: more['num_level_priors'] = c['levels']
    if name == 'atss_regions': more['gt_bboxes_ignore'] = c['regions']
    if name in ('atss_alpha', 'soft_label', 'soft_label_masks', 'hungarian'): more |= dict(bbox_preds=c['bbox_preds'], cls_scores=c['logits'])
    if name in ('sim_ota', 'task_aligned', 'topk_hungarian'): more |= dict(bbox_preds=c['bbox_preds'], cls_scores=c['scores'])
    if name == 'soft_label_masks': more['gt_masks'] = _large(c['gt_masks'])
    if name == 'hungarian_masks': more |= dict(cls_scores=c['logits'], masks=c['masks'], gt_masks=c['gt_masks'])
    if name in ('hungarian', 'topk_hungarian'): more['img_shape'] = c['size']
    return OURS[name.replace('soft_label_masks', 'soft_label')]().assign(priors, c['gts'], c['labels'], **more)


def _large(masks): return masks.repeat_interleave(8, dim=1).repeat_interleave(8, dim=2)


def theirs(name, c):
    "MMDetection's AssignResult."
    from mmdet.models.task_modules import assigners as m
    from mmengine.structures import InstanceData
    gt = InstanceData(bboxes=c['gts'], labels=c['labels'])
    if 'atss' in name:
        pred = InstanceData(priors=c['anchors'])
        if name == 'atss_alpha': pred.bboxes, pred.scores = c['bbox_preds'], c['logits']
        options = dict(atss=dict(topk=9), atss_alpha=dict(topk=9, alpha=.8), atss_regions=dict(topk=4, ignore_iof_thr=.5))[name]
        return m.ATSSAssigner(**options).assign(pred, c['levels'], gt, InstanceData(bboxes=c['regions']))
    if name == 'task_aligned':
        return m.TaskAlignedAssigner(13).assign(InstanceData(priors=c['anchors'], bboxes=c['bbox_preds'], scores=c['scores']), gt)
    if name == 'sim_ota': return m.SimOTAAssigner().assign(InstanceData(priors=c['points'], bboxes=c['bbox_preds'], scores=c['scores']), gt)
    if name.startswith('soft_label'):
        if name == 'soft_label_masks': gt.masks = _large(c['gt_masks'])
        return m.DynamicSoftLabelAssigner().assign(InstanceData(priors=c['points'], bboxes=c['bbox_preds'], scores=c['logits']), gt)
    if name == 'topk_hungarian':
        return m.TopkHungarianAssigner(3).assign(c['scores'], c['bbox_preds'], c['gts'], c['labels'], dict(img_shape=c['size']))
    configs = lambda costs: [dict(type=type(cost).__name__, **{k: v for k, v in vars(cost).items()}) for cost in costs]
    if name == 'hungarian': pred, costs = InstanceData(bboxes=c['bbox_preds'], scores=c['logits']), configs(detr_costs(m))
    else:
        pred, costs = InstanceData(scores=c['logits'], masks=c['masks']), configs(mask_costs(m))
        gt.masks = c['gt_masks']
    return m.HungarianAssigner(costs).assign(pred, gt, dict(img_shape=c['size']))


def our_cost(name, options, c):
    return getattr(match_costs, name)(**options)(
        cls_scores=c['word_logits'] if name == 'BinaryFocalLossCost' else c['logits'], gt_labels=c['labels'], bbox_preds=c['bbox_preds'],
        gt_bboxes=c['gts'], img_shape=c['size'], masks=c['masks'].flatten(1), gt_masks=c['gt_masks'].flatten(1),
        positive_maps=c['positive_maps'], text_token_mask=c['words'])


def their_cost(name, options, c):
    from mmdet.models.task_modules import assigners as m
    from mmengine.structures import InstanceData
    pred = InstanceData(bboxes=c['bbox_preds'], scores=c['word_logits'] if name == 'BinaryFocalLossCost' else c['logits'], masks=c['masks'])
    gt = InstanceData(bboxes=c['gts'], labels=c['labels'], masks=c['gt_masks'], positive_maps=c['positive_maps'],
                      text_token_mask=c['words'].expand(len(c['gts']), -1))
    return getattr(m, name)(**options)(pred, gt, dict(img_shape=c['size']))
