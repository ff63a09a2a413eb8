"""Seeded inputs for every prior generator and box coder, run by either library: `COMPONENTS[name](library, seed)`.

A library is a namespace with MMDetection's class names; the few places where the two are called differently say so.
"""
import random
from types import SimpleNamespace

import torch

# where priors have no size MMDetection divides by zero: what is not finite there is not compared, and ours must be finite


def ours():
    "learndet's components."
    from learndet.task_modules.coders.bucketing_coder import BucketingBBoxCoder
    from learndet.task_modules.coders.delta_xywh_coder import DeltaXYWHBBoxCoder, DeltaXYWHBBoxCoderForGLIP, LegacyDeltaXYWHBBoxCoder
    from learndet.task_modules.coders.distance_point_coder import DistancePointBBoxCoder
    from learndet.task_modules.coders.pseudo_coder import PseudoBBoxCoder
    from learndet.task_modules.coders.tblr_coder import TBLRBBoxCoder
    from learndet.task_modules.coders.yolo_coder import YOLOBBoxCoder
    from learndet.task_modules.prior_generators.anchor_generator import AnchorGenerator, LegacyAnchorGenerator
    from learndet.task_modules.prior_generators.point_generator import MlvlPointGenerator, PointGenerator
    from learndet.task_modules.prior_generators.ssd_anchor_generator import LegacySSDAnchorGenerator, SSDAnchorGenerator
    from learndet.task_modules.prior_generators.yolo_anchor_generator import YOLOAnchorGenerator
    return SimpleNamespace(**locals(), theirs=False)


def theirs():
    "MMDetection's, where LEARNDET_MMDET names a folder with it."
    import mmdet_reference
    mmdet_reference.load()
    import mmdet.models.task_modules.coders as coders
    import mmdet.models.task_modules.prior_generators as priors
    from mmdet.models.dense_heads.yolo_head import YOLOV3Head
    from mmdet.models.task_modules.prior_generators.anchor_generator import LegacySSDAnchorGenerator
    return SimpleNamespace(**{n: getattr(m, n) for m in (coders, priors) for n in m.__all__}, YOLOV3Head=YOLOV3Head,
                           LegacySSDAnchorGenerator=LegacySSDAnchorGenerator, theirs=True)


def boxes(rng, *shape, degenerate=False, inverted=False):
    "xyxy boxes around a picture of 200 pixels; every third of no width where degenerate, every fourth with x2 < x1 where inverted."
    g = torch.Generator().manual_seed(rng.randrange(2 ** 30))
    xy, wh = torch.rand(*shape, 2, generator=g) * 220 - 20, torch.rand(*shape, 2, generator=g) * 90 + .5
    if degenerate: wh[..., ::3, 0] = 0
    if inverted: wh[..., ::4, 0] *= -1
    return torch.cat([xy, xy + wh], dim=-1)


def normal(rng, *shape, scale=1.): return torch.randn(*shape, generator=torch.Generator().manual_seed(rng.randrange(2 ** 30))) * scale
def count(rng): return rng.choice([0, 1, 2, 7, 20])
def border(rng): return rng.choice([None, (150, 180), (90, 210)])
def borders(rng, B): return rng.choice([None, torch.tensor([[150., 180.]] * B) - 20 * torch.arange(B)[:, None]])
def maps(rng, L): return [(rng.randint(0 if rng.random() < .1 else 1, 6), rng.randint(1, 7)) for _ in range(L)]


def strides(rng, L):
    "Square, and sometimes one number for x and another for y."
    return [(s, 2 * s) if rng.random() < .3 else s for s in [4, 8, 16, 32, 64][:L]]


def anchor_options(rng, L):
    scales = rng.choice([dict(scales=[8]), dict(scales=[2., 3.5]), dict(octave_base_scale=4, scales_per_octave=3)])
    where = rng.choice([{}, dict(center_offset=.5), dict(centers=[(rng.uniform(0, 9), 3.) for _ in range(L)])])
    sizes = rng.choice([{}, dict(base_sizes=[rng.uniform(3, 40) for _ in range(L)])])
    return dict(strides=strides(rng, L), ratios=rng.choice([[1.], [.5, 1., 2.], [.3, 4.]]), scale_major=rng.random() < .6,
                **scales, **where, **sizes)


def everything(lib, rng, generator, L):
    "What any generator can be asked."
    sizes, shapes = maps(rng, L), [(rng.randint(1, 200), rng.randint(1, 200)) for _ in range(2)]
    priors = generator.grid_priors(sizes, device='cpu')
    level = rng.randrange(L)
    idxs = torch.tensor([rng.randrange(len(priors[level])) for _ in range(5)] if len(priors[level]) else [], dtype=torch.long)
    more = dict(device='cpu') if lib.theirs else {}
    sparse = generator.sparse_priors(idxs, sizes[level], level, **more)
    if lib.theirs: flags = torch.stack([torch.cat(generator.valid_flags(sizes, shape, device='cpu')) for shape in shapes])
    else: flags = generator.valid_flags(sizes, torch.tensor(shapes))
    counts = torch.tensor(generator.num_base_priors), torch.tensor(generator.num_levels)
    return [*priors, sparse, flags.float(), *counts], sizes, shapes, flags


def inside(lib, rng, generator, priors, shapes, flags):
    allowed = rng.choice([-1, 0, 5])
    if not lib.theirs: return generator.inside_flags(priors, flags, torch.tensor(shapes), allowed).float()
    return torch.stack([lib.anchor_inside_flags(priors, f, shape, allowed) for f, shape in zip(flags, shapes)]).float()


def anchors(lib, seed, name='AnchorGenerator'):
    rng, L = random.Random(seed), seed % 4 + 1
    generator = getattr(lib, name)(**anchor_options(rng, L))
    out, sizes, shapes, flags = everything(lib, rng, generator, L)
    return [*generator.base_anchors, *out, inside(lib, rng, generator, torch.cat(out[:L]), shapes, flags)]


PUBLISHED = [(300, (.15, .9), 6), (300, (.2, .9), 6), (512, (.1, .9), 7), (512, (.15, .9), 7)]      # SSD's picture, shares, maps


def legacy_anchors(lib, seed): return anchors(lib, seed, 'LegacyAnchorGenerator')


def ssd(lib, seed):
    rng, L = random.Random(seed), seed % 3 + 3
    ratios = [rng.choice([[2], [2, 3], [1.5]]) for _ in range(L)]
    if seed % 2:
        low = [rng.uniform(5, 60) for _ in range(L)]
        options = dict(strides=strides(rng, L), ratios=ratios, min_sizes=low, max_sizes=[a * rng.uniform(1.1, 3) for a in low],
                       scale_major=rng.random() < .2)
    else:
        side, shares, L = PUBLISHED[seed // 2 % 4]
        options = dict(strides=[8, 16, 32, 64, 100, 200, 300][:L], ratios=[[2]] * L, input_size=side, basesize_ratio_range=shares,
                       scale_major=False)
    generator = lib.SSDAnchorGenerator(**options)
    out, sizes, shapes, flags = everything(lib, rng, generator, L)
    return [*generator.base_anchors, *out, inside(lib, rng, generator, torch.cat(out[:L]), shapes, flags)]


def legacy_ssd(lib, seed):
    rng = random.Random(seed)
    side, shares, L = PUBLISHED[seed % 4]
    where, ratios = [rng.randint(4, 60) for _ in range(L)], [rng.choice([[2], [2, 3]]) for _ in range(L)]
    generator = lib.LegacySSDAnchorGenerator(where, ratios, shares, side, False)
    return [*generator.base_anchors, *everything(lib, rng, generator, L)[0]]


def yolo_anchors(lib, seed):
    rng, L, A = random.Random(seed), seed % 3 + 1, seed % 4 + 1
    where = strides(rng, L)[::-1]
    generator = lib.YOLOAnchorGenerator(where, [[(rng.randint(3, 90), rng.randint(3, 90)) for _ in range(A)] for _ in range(L)])
    out, sizes, shapes, flags = everything(lib, rng, generator, L)
    gts = boxes(rng, count(rng), 4)[..., 0, :].clamp(0, 190)
    sizes = [(int(200 // sy) + 1, int(200 // sx) + 1) for sx, sy in generator.strides]            # all middles inside
    head = SimpleNamespace(num_levels=L, prior_generator=generator)                                # all that the method asks for
    if lib.theirs: found = torch.cat(lib.YOLOV3Head.responsible_flags(head, sizes, gts, 'cpu'))
    else: found = generator.responsible_flags(sizes, gts)
    return [*generator.base_anchors, *out, inside(lib, rng, generator, torch.cat(out[:L]), shapes, flags), found.float()]


def points(lib, seed):
    rng, L = random.Random(seed), seed % 5 + 1
    generator = lib.MlvlPointGenerator(strides(rng, L), offset=rng.choice([0, .5, .25]))
    out, sizes, *_ = everything(lib, rng, generator, L)
    return [*out, *generator.grid_priors(sizes, device='cpu', with_stride=True)]


def single_points(lib, seed):
    rng = random.Random(seed)
    (size,), stride = maps(rng, 1), rng.choice([4, 16, 7])
    valid = tuple(rng.randint(0, n) for n in size)
    generator = lib.PointGenerator()
    return [generator.grid_points(size, stride, device='cpu'), generator.valid_flags(size, valid, device='cpu').float()]


def deltas(lib, seed, name='DeltaXYWHBBoxCoder'):
    rng, K = random.Random(seed), seed % 3 + 1
    n, stds = count(rng), rng.choice([(1., 1., 1., 1.), (.1, .1, .2, .2), (.033, .033, .067, .067)])
    options = dict(target_means=(0., .1, 0., -.1) if rng.random() < .5 else (0.,) * 4, target_stds=stds)
    if name != 'LegacyDeltaXYWHBBoxCoder':
        options.update(clip_border=rng.random() < .7, add_ctr_clamp=rng.random() < .3, ctr_clamp=rng.choice([16, 32]))
    coder, priors = getattr(lib, name)(**options), boxes(rng, n, degenerate=seed % 2)
    gts = boxes(rng, n, degenerate=seed % 3 == 0, inverted=seed % 5 == 0)
    said, shape = normal(rng, n, K * 4, scale=rng.choice([.5, 3.])), border(rng)
    if n == 0: shape = None                                                                       # MMDetection's legacy coder cannot
    if lib.theirs: back = coder.decode(priors, said, shape) if n else said
    else: back = coder.decode(priors[:, None], said.view(n, K, 4), shape).flatten(1)              # classes have a dimension of their own
    return [coder.encode(priors, gts), back]


def legacy_deltas(lib, seed): return deltas(lib, seed, 'LegacyDeltaXYWHBBoxCoder')
def glip_deltas(lib, seed): return deltas(lib, seed, 'DeltaXYWHBBoxCoderForGLIP')


def distances(lib, seed):
    rng, n, B = random.Random(seed), 3 + seed % 5, seed % 3 + 1
    coder, where = lib.DistancePointBBoxCoder(clip_border=rng.random() < .7), boxes(rng, B, n)[..., :2]
    gts, said = boxes(rng, B, n, degenerate=seed % 2, inverted=seed % 5 == 0), normal(rng, B, n, 4, scale=60.)
    limit = rng.choice([{}, dict(max_dis=16.), dict(max_dis=50., eps=.01)])
    return [coder.encode(where, gts, **limit), coder.decode(where, said, borders(rng, B)),
            coder.decode(where[0], said[0].clone(), border(rng)), coder.encode(where[0, :0], gts[0, :0])]


def tblr(lib, seed):
    rng, n, B = random.Random(seed), 3 + seed % 5, seed % 3 + 1
    coder = lib.TBLRBBoxCoder(rng.choice([4., 1., [1., 2., 3., 4.]]), clip_border=rng.random() < .7)
    priors, said = boxes(rng, B, n, degenerate=seed % 2), normal(rng, B, n, 4)
    gts = boxes(rng, B, n, degenerate=seed % 3 == 0, inverted=seed % 5 == 0)
    return [coder.encode(priors[0], gts[0]), coder.decode(priors, said, borders(rng, B)), coder.decode(priors[0], said[0], border(rng)),
            coder.encode(priors[0, :0], gts[0, :0])]


def yolo_codes(lib, seed):
    rng = random.Random(seed)
    n, coder = count(rng), lib.YOLOBBoxCoder(rng.choice([1e-6, 1e-3]))
    priors, said = boxes(rng, n, degenerate=seed % 2), normal(rng, n, 4)
    gts = boxes(rng, n, degenerate=seed % 3 == 0, inverted=seed % 5 == 0)
    stride = rng.choice([8, torch.tensor([rng.choice([8., 16., 32.]) for _ in range(n)])])
    column = stride[:, None] if lib.theirs and torch.is_tensor(stride) else stride                # theirs: (P,) there, (P, 1) back
    return [coder.encode(priors, gts, stride), coder.decode(priors, torch.cat([said[:, :2].sigmoid(), said[:, 2:]], 1), column)]


def buckets(lib, seed):
    rng = random.Random(seed)
    n, num = rng.choice([1, 2, 7, 20]), rng.choice([3, 4, 7, 14])                                 # theirs cannot do without any prior
    S = (num + 1) // 2
    coder = lib.BucketingBBoxCoder(num, rng.choice([1., 1.7, 3.]), rng.choice([1, 2]), offset_upperbound=rng.choice([1., .6]),
                                   cls_ignore_neighbor=rng.random() < .7, clip_border=rng.random() < .7)
    priors = boxes(rng, n) + torch.tensor([-4., -4, 4, 4])    # buckets of hundredths of a pixel: only rounding
    gts = boxes(rng, n, degenerate=seed % 3 == 0, inverted=seed % 5 == 0)
    said = normal(rng, n, 4 * S, scale=3.), normal(rng, n, 4 * S)
    return [*coder.encode(priors, gts), *coder.decode(boxes(rng, n, degenerate=seed % 2), said, border(rng))]


def pseudo(lib, seed):
    rng = random.Random(seed)
    priors, gts = boxes(rng, 5), boxes(rng, 5, degenerate=True)
    return [lib.PseudoBBoxCoder().encode(priors, gts), lib.PseudoBBoxCoder().decode(priors, gts)]


COMPONENTS = dict(AnchorGenerator=anchors, LegacyAnchorGenerator=legacy_anchors, SSDAnchorGenerator=ssd,
                  LegacySSDAnchorGenerator=legacy_ssd, YOLOAnchorGenerator=yolo_anchors, MlvlPointGenerator=points, PointGenerator=single_points,
                  DeltaXYWHBBoxCoder=deltas, LegacyDeltaXYWHBBoxCoder=legacy_deltas, DeltaXYWHBBoxCoderForGLIP=glip_deltas, DistancePointBBoxCoder=distances,
                  TBLRBBoxCoder=tblr, YOLOBBoxCoder=yolo_codes, BucketingBBoxCoder=buckets, PseudoBBoxCoder=pseudo)


def fingerprint(tensors):
    "Shapes and a few weighted means of each tensor, with the places that are not finite: small, and it sees any change."
    out = []
    for t in tensors:
        flat = t.detach().double().flatten()
        holes = (~flat.isfinite()).nonzero()[:, 0].tolist()
        out.append(dict(shape=list(t.shape), holes=holes, means=means(flat, holes)))
    return out


def means(flat, holes):
    "Two means of `flat` without its holes, weighted differently, and the mean size."
    flat = flat.clone()
    flat[holes] = 0
    n = torch.arange(len(flat), dtype=torch.double)
    values = [(flat * (f * n + f).cos()).mean() for f in (0., 1.9)] + [flat.abs().mean()] if len(flat) else []
    return [float(f'{float(v):.6g}') for v in values]
