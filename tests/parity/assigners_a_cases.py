"""Seeded cases for assigners and samplers, as this library and as MMDetection 3.3 answer them.

A component maps (library, seed) to the answers for a batch of two padded images. MMDetection takes one image at a time, without
padding and without priors that are not valid; `Theirs` does that, and applies the rules by which we differ on purpose:
a negative in an ignored region is ignored (Grid, Point, Uniform, Region, which do not look at regions there), an object without
area takes part in nothing (Grid, Point, Uniform, Region).
"""
import torch

import mmdet_reference

STRIDES, SIZES, NUMS, K = [8, 16, 32], [(8, 8), (4, 4), (2, 2)], [64, 16, 4], 3
LAYOUT = dict(featmap_sizes=SIZES, num_level_anchors=NUMS, anchor_scale=4, anchor_strides=STRIDES)


def boxes(*shape, tie=False, least=6.):
    xy, wh = torch.rand(*shape, 2) * 44, torch.rand(*shape, 2) * 40 + least
    if tie: xy, wh = (xy / 8).round() * 8, (wh / 8).ceil() * 8
    return torch.cat([xy, xy + wh], dim=-1)


def case(seed, P=40, points=False):
    "A batch of two: what both libraries are given."
    torch.manual_seed(seed)
    G, I, tie = seed % 6, seed % 3, seed % 4 == 0
    gts, valid = boxes(2, G, tie=tie), torch.rand(2, G) < .75
    if seed % 5 == 0 and G: gts[:, 0, 2] = gts[:, 0, 0]                                     # an object without width
    if seed % 19 == 0: P = 0
    return dict(priors=boxes(P, tie=tie), gts=gts, labels=torch.randint(K, (2, G)), valid=valid, regions=boxes(2, I),
                regions_valid=torch.rand(2, I) < .7, ok=torch.rand(2, P) < (.85 if seed % 2 else 2), tie=tie)


def anchors():
    "The anchors of three levels, four strides large, without the help of either library."
    rows = []
    for (H, W), s in zip(SIZES, STRIDES):
        y, x = torch.meshgrid(torch.arange(H) * s, torch.arange(W) * s, indexing='ij')
        rows.append(torch.stack([x - 2 * s, y - 2 * s, x + 2 * s, y + 2 * s], dim=-1).flatten(0, 1).float())
    return torch.cat(rows)


def points():
    rows = []
    for (H, W), s in zip(SIZES, STRIDES):
        y, x = torch.meshgrid(torch.arange(H) * s, torch.arange(W) * s, indexing='ij')
        rows.append(torch.stack([x, y, torch.full_like(x, s)], dim=-1).flatten(0, 1).float())
    return torch.cat(rows)


class Ours:
    "This library: the whole batch at once."
    def __init__(self):
        from learndet.task_modules.assigners import approx_max_iou_assigner, center_region_assigner, points_and_grids
        from learndet.task_modules.samplers import hard_examples
        self.modules = approx_max_iou_assigner, center_region_assigner, points_and_grids, hard_examples

    def make(self, name, *args, **kwargs):
        return next(getattr(m, name) for m in self.modules if hasattr(m, name))(*args, **kwargs)

    def assign(self, assigner, c, priors, extra=None, per_image=None, regions=True, **kwargs):
        given = dict(gt_bboxes_ignore=c['regions'], ignore_valid=c['regions_valid']) if regions else {}
        result = assigner.assign(priors, c['gts'], c['labels'], c['valid'], prior_valid=c['ok'], **given, **(extra or {}),
                                 **(per_image or {}), **kwargs)
        return result

    def sample(self, sampler, gt_inds, labels, priors, logits, deltas, generator=None):
        losses = torch.nn.functional.cross_entropy(logits, torch.where(gt_inds > 0, labels, K), reduction='none')
        scores, best = logits.softmax(-1)[:, :K].max(-1)
        given = dict(losses=losses, scores=scores, bboxes=priors + deltas.view(-1, K, 4)[range(len(best)), best])
        from learndet.task_modules.assigners.assign_result import AssignResult
        result = sampler.sample(AssignResult(gt_inds, torch.zeros(len(gt_inds))), **{n: given[n] for n in sampler.needs})
        return result.pos, result.neg, getattr(result, 'neg_label_weights', result.neg.float())


class Theirs:
    "MMDetection: image by image, then brought into our form."
    def __init__(self):
        mmdet_reference.load()
        import mmdet.models.task_modules.assigners as assigners
        import mmdet.models.task_modules.samplers as samplers
        from mmdet.models.task_modules.assigners import AssignResult
        from mmengine.structures import InstanceData
        samplers.score_hlr_sampler.nms_match = nms_match                                    # a compiled operator elsewhere
        self.modules, self.InstanceData, self.AssignResult = (assigners, samplers), InstanceData, AssignResult

    def make(self, name, *args, **kwargs):
        return next(getattr(m, name) for m in self.modules if hasattr(m, name))(*args, **kwargs)

    def assign(self, assigner, c, priors, extra=None, per_image=None, regions=True, own_regions=False, drop=False, **kwargs):
        names, images = dict(approxs='approxs', responsible_flags='responsible_flags', bbox_preds='decoder_priors'), []
        for b in range(2):
            ok, real = c['ok'][b], c['valid'][b].clone()
            if drop: real &= (c['gts'][b, :, 2:] > c['gts'][b, :, :2]).all(-1)
            pred = self.InstanceData(priors=priors[ok])
            for name, value in (extra or {}).items(): pred[names[name]] = value[ok]
            for name, value in (per_image or {}).items(): pred[names[name]] = value[b][ok]
            gt = self.InstanceData(bboxes=c['gts'][b][real], labels=c['labels'][b][real])
            area = c['regions'][b][c['regions_valid'][b]]
            ignored = self.InstanceData(bboxes=area) if regions and own_regions else None
            if 'featmap_sizes' in kwargs:                                                   # Region: takes flags instead
                pred = self.InstanceData(priors=priors, valid_flags=ok)
                result = assigner.assign(pred, gt, dict(img_shape=(64, 64)), allowed_border=-1, **kwargs)
                codes = torch.where(ok, result.gt_inds, -1)
            else:
                result = assigner.assign(pred, gt, ignored, **kwargs)
                codes = torch.full((len(priors),), -1).masked_scatter(ok, result.gt_inds)
            numbers = torch.cat([torch.tensor([-1, 0]), real.nonzero()[:, 0] + 1])
            codes = numbers[codes + 1]
            if regions and not own_regions and len(priors):
                x, y = (priors[:, :2] if c.get('points') else (priors[:, :2] + priors[:, 2:4]) / 2).unbind(-1)
                inside = torch.zeros_like(ok)
                for x1, y1, x2, y2 in area: inside |= (x > x1) & (x < x2) & (y > y1) & (y < y2)
                codes = torch.where(inside & (codes == 0), -1, codes)
            images.append((codes, result, ok))
        return images

    def sample(self, sampler, gt_inds, labels, priors, logits, deltas):
        priors = priors.clone()
        context = sampler.context
        context.rows = {tuple(p.tolist()): n for n, p in enumerate(priors)}
        context.logits, context.deltas = logits, deltas
        result = self.AssignResult(2, gt_inds.clone(), torch.zeros(len(gt_inds)), labels.clone())
        gt = self.InstanceData(bboxes=priors[:2], labels=torch.arange(2))
        out = sampler.sample(result, self.InstanceData(priors=priors), gt, feats=None)
        out, weights = out if isinstance(out, tuple) else (out, None)
        mask = lambda inds: torch.zeros(len(gt_inds), dtype=torch.bool).index_fill(0, inds, True)
        neg = mask(out.neg_inds)
        full = neg.float() if weights is None else torch.zeros(len(gt_inds)).index_put((out.neg_inds,), weights)
        return mask(out.pos_inds), neg, full


class Context:
    "A box head that knows its answers: what MMDetection's samplers run."
    with_shared_head, bbox_roi_extractor, num_classes = False, None, K

    def __init__(self): self.bbox_head = self.bbox_coder = self

    def _bbox_forward(self, feats, rois):
        rows = [self.rows[tuple(r.tolist())] for r in rois[:, 1:]]
        return dict(cls_score=self.logits[rows], bbox_pred=self.deltas[rows])

    def loss(self, cls_score, labels, **kwargs):
        return dict(loss_cls=torch.nn.functional.cross_entropy(cls_score, labels, reduction='none'))

    def decode(self, rois, deltas): return rois + deltas


def nms_match(dets, iou_thr):
    "Greedy suppression that keeps who removed whom, as mmcv's operator does it."
    left, groups = dets[:, 4].argsort(descending=True).tolist(), []
    area = (dets[:, 2] - dets[:, 0]) * (dets[:, 3] - dets[:, 1])
    while left:
        i, others = left[0], torch.tensor(left[1:], dtype=torch.long)
        low, high = torch.maximum(dets[i, :2], dets[others, :2]), torch.minimum(dets[i, 2:4], dets[others, 2:4])
        inter = (high - low).clamp(min=0).prod(-1)
        mine = inter / (area[i] + area[others] - inter) >= iou_thr
        groups.append(torch.tensor([i] + others[mine].tolist()))
        left = others[~mine].tolist()
    return groups


def codes_of(answer): return [answer.gt_inds[b] for b in range(2)] if hasattr(answer, 'gt_inds') else [codes for codes, *_ in answer]


def approx(library, seed):
    c = case(seed)
    own = [boxes(len(c['priors']), tie=c['tie']) for _ in range(2)]
    approxs = torch.stack([c['priors'] + torch.tensor([-2., 3, 5, -1]), *own], dim=1)
    settings = [dict(min_pos_iou=.1), dict(min_pos_iou=.3, gt_max_assign_all=False), dict(min_pos_iou=.1, match_low_quality=False),
                dict(min_pos_iou=.2, neg_iou_thr=(.1, .4)), dict(min_pos_iou=.1, ignore_wrt_candidates=False)][seed % 5]
    assigner = library.make('ApproxMaxIoUAssigner', **{**dict(pos_iou_thr=.5, neg_iou_thr=.4, ignore_iof_thr=.5), **settings})
    some = bool(c['valid'].any(1).all())                     # an image without objects looks at no regions there
    own_regions = dict(own_regions=True) if isinstance(library, Theirs) else {}
    return codes_of(library.assign(assigner, c, c['priors'], extra=dict(approxs=approxs), regions=some, **own_regions))


def grid(library, seed):
    c = case(seed)
    flags = torch.rand(2, len(c['priors'])) < .3
    settings = [dict(), dict(min_pos_iou=.2), dict(gt_max_assign_all=False), dict(neg_iou_thr=(.1, .4))][seed % 4]
    assigner = library.make('GridAssigner', **{**dict(pos_iou_thr=.5, neg_iou_thr=.4), **settings})
    drop = dict(drop=True) if isinstance(library, Theirs) else {}
    return codes_of(library.assign(assigner, c, c['priors'], per_image=dict(responsible_flags=flags), **drop))


def point(library, seed):
    c, pts = case(seed), points()
    c |= dict(points=True, ok=torch.rand(2, len(pts)) < 2)
    c['gts'] = c['gts'] + torch.rand(c['gts'].shape[:-1])[..., None] * .9            # of equally near points any may be taken
    assigner = library.make('PointAssigner', scale=4, pos_num=1 + seed % 4)
    drop = dict(drop=True) if isinstance(library, Theirs) else {}
    return codes_of(library.assign(assigner, c, pts, **drop))


def uniform(library, seed):
    c = case(seed)
    c['ok'] = torch.rand(2, len(c['priors'])) < 2                                           # all: `topk` fails on too few there
    c['priors'] = c['priors'] + torch.rand(c['priors'].shape) * .1
    preds = boxes(2, len(c['priors'])) * .4 + c['priors'] * .6
    assigner = library.make('UniformAssigner', pos_ignore_thr=(.15, .3)[seed % 2], neg_ignore_thr=(.7, .5)[seed % 2], match_times=1 + seed % 5)
    drop = dict(drop=True) if isinstance(library, Theirs) else {}
    answer = library.assign(assigner, c, c['priors'], per_image=dict(bbox_preds=preds), **drop)
    if isinstance(library, Theirs): count = [r.get_extra_property('pos_idx').sum() for _, r, _ in answer]
    else: count = list(answer.pos_idx.sum(1))
    return codes_of(answer) + count


def center(library, seed):
    c = case(seed)
    c['gts'] = c['gts'] * torch.tensor([1., 1, 1, 1]) + torch.rand(c['gts'].shape) * .01    # equal areas are anybody's there
    if c['gts'].shape[1] and seed % 5 == 0: c['gts'][:, 0, 2] = c['gts'][:, 0, 0]
    settings = dict(pos_scale=(.2, .5, .8)[seed % 3], neg_scale=(.2, .7, .9)[seed % 3], foreground_dominate=seed % 2 == 1)
    assigner = library.make('CenterRegionAssigner', **settings)
    own_regions = dict(own_regions=True) if isinstance(library, Theirs) else {}
    answer, dark = library.assign(assigner, c, c['priors'], **own_regions), torch.zeros(2, len(c['priors']), K, dtype=torch.bool)
    codes = codes_of(answer)
    for b in range(2):
        if isinstance(library, Theirs):
            pairs, place = answer[b][1].get_extra_property('shadowed_labels'), answer[b][2].nonzero()[:, 0]
            dark[b][place[pairs[:, 0].long()], pairs[:, 1].long()] = True
        elif answer.shadowed.numel(): dark[b] = (answer.class_weights(K)[b] == 0)
        dark[b][codes[b] == -1] = False
    return codes + list(dark.long())


def region(library, seed):
    c, priors = case(seed), anchors()
    c['ok'] = torch.rand(2, len(priors)) < (.85 if seed % 2 else 2)
    assigner = library.make('RegionAssigner', center_ratio=(.2, .4)[seed % 2], ignore_ratio=(.5, .6)[seed % 2])
    drop = dict(drop=True) if isinstance(library, Theirs) else {}
    return codes_of(library.assign(assigner, c, priors, **LAYOUT, **drop))


def sampled(library, name, seed, **settings):
    torch.manual_seed(seed)
    P = 30
    gt_inds, priors = torch.randint(-1, 3, (P,)), boxes(P) + torch.rand(P, 4) * .1
    labels = torch.where(gt_inds > 0, gt_inds - 1, -1)
    logits, deltas = torch.randn(P, K + 1) * 2, torch.randn(P, K * 4)
    context = dict(context=Context()) if isinstance(library, Theirs) else {}
    sampler = library.make(name, 1 + seed % 14, (0., .25, .5)[seed % 3], neg_pos_ub=(-1, 1)[seed % 2], add_gt_as_proposals=False,
                           **context, **settings)
    return list(library.sample(sampler, gt_inds, labels, priors, logits, deltas))


def ohem(library, seed): return sampled(library, 'OHEMSampler', seed)


def score_hlr(library, seed):
    "Positives are drawn by lot, so only how many; negatives and weights are compared while there are enough with a high score."
    pos, neg, weights = sampled(library, 'ScoreHLRSampler', seed, k=(.5, 1.)[seed % 2], bias=(0., .2)[seed % 2], score_thr=.01)
    return [pos.sum(), neg, (weights * 1e3).round()]


COMPONENTS = dict(ApproxMaxIoUAssigner=approx, GridAssigner=grid, PointAssigner=point, UniformAssigner=uniform,
                  CenterRegionAssigner=center, RegionAssigner=region, OHEMSampler=ohem, ScoreHLRSampler=score_hlr)
ours, theirs = Ours, Theirs


def fingerprint(tensors): return [[list(t.shape), t.flatten().long().tolist()] for t in tensors]
