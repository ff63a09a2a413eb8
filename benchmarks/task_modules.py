"""Task modules against torchvision's, and against loops over images and objects: in one process, interleaved, one thread.

    python benchmarks/task_modules.py [--objects 8 32] [--size 800 1344] [--repeat 5] [--compile] [--aerial]

Prints process CPU time (median) and ratios to torchvision, and the peak of live tensor bytes. A ratio above 1 means that
learndet needs that many times less. Absolute times mean little on a shared machine; ratios of one run can be compared.
"""
import argparse
import math
import os
import statistics
import time

os.environ.setdefault('KINETO_LOG_LEVEL', '99')                                 # the profiler keeps quiet

import torch
import torchvision
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler, BoxCoder, BoxLinearCoder, Matcher, SSDMatcher
from torchvision.models.detection.anchor_utils import AnchorGenerator as TVAnchorGenerator
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import box_iou

import loops
from learndet.task_modules.assigners.approx_max_iou_assigner import ApproxMaxIoUAssigner
from learndet.task_modules.assigners.assign_result import AssignResult, box_centers, take_rows
from learndet.task_modules.assigners.atss import ATSSAssigner
from learndet.task_modules.assigners.center_region_assigner import CenterRegionAssigner, RegionAssigner, scale_about_center
from learndet.task_modules.assigners.dynamic_soft_label import DynamicSoftLabelAssigner
from learndet.task_modules.assigners.hungarian import HungarianAssigner
from learndet.task_modules.assigners.match_costs import BBoxL1Cost, FocalLossCost, IoUCost
from learndet.task_modules.assigners.max_iou_assigner import MaxIoUAssigner
from learndet.task_modules.assigners.points_and_grids import GridAssigner, PointAssigner, UniformAssigner
from learndet.task_modules.assigners.sim_ota import SimOTAAssigner
from learndet.task_modules.assigners.task_aligned import TaskAlignedAssigner
from learndet.task_modules.coders.bucketing_coder import BucketingBBoxCoder
from learndet.task_modules.coders.delta_xywh_coder import DeltaXYWHBBoxCoder
from learndet.task_modules.coders.distance_point_coder import DistancePointBBoxCoder
from learndet.task_modules.coders.tblr_coder import TBLRBBoxCoder
from learndet.task_modules.coders.yolo_coder import YOLOBBoxCoder
from learndet.task_modules.prior_generators.anchor_generator import AnchorGenerator
from learndet.task_modules.prior_generators.point_generator import MlvlPointGenerator
from learndet.task_modules.prior_generators.ssd_anchor_generator import SSDAnchorGenerator
from learndet.task_modules.prior_generators.yolo_anchor_generator import YOLOAnchorGenerator
from learndet.task_modules.samplers.balanced_sampling import InstanceBalancedPosSampler, IoUBalancedNegSampler
from learndet.task_modules.samplers.hard_examples import OHEMSampler, ScoreHLRSampler
from learndet.task_modules.samplers.sampling import RandomSampler

STRIDES = [8, 16, 32, 64, 128]


def interleaved(functions, repeat):
    "Median process CPU time of each function in ms, called in turn."
    times = {name: [] for name in functions}
    for f in functions.values(): f()                                            # warm up
    for _ in range(repeat):
        for name, f in functions.items():
            start = time.process_time()
            f()
            times[name].append((time.process_time() - start) * 1e3)
    return {name: statistics.median(t) for name, t in times.items()}


def peak_mib(f):
    "Largest sum of live tensor bytes during a call, from the profiler's memory events, in MiB."
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as prof: f()
    events = [e for e in prof.profiler.kineto_results.events() if e.name() == '[memory]']
    live = peak = 0
    for e in sorted(events, key=lambda e: e.start_ns()):
        live += e.nbytes()
        peak = max(peak, live)
    return peak / 2 ** 20


def report(title, functions, repeat, memory=True):
    times = interleaved(functions, repeat)
    peaks = {name: peak_mib(f) for name, f in functions.items()} if memory else {}
    reference = next(iter(functions))
    print(f'\n{title}')
    for name, ms in times.items():
        line = f'  {name:34}{ms:9.2f} ms {times[reference] / max(ms, 1e-4):9.1f}x'
        if memory: line += f'{peaks[name]:10.1f} MiB {peaks[name] / max(peaks[reference], 1e-9):8.2f} of it'
        print(line)


def random_objects(B, G, size, seed=0):
    "(B, G, 4) xyxy boxes of 16 to 400 pixels."
    generator = torch.Generator().manual_seed(seed)
    side = 16 * 25 ** torch.rand(B, G, 2, generator=generator)
    center = torch.rand(B, G, 2, generator=generator) * torch.tensor(size[::-1], dtype=torch.float32)
    return torch.cat([center - side / 2, center + side / 2], dim=-1)


def problem(size, strides, batch, objects, classes=80, anchors=1, seed=0):
    "What rules look at: `anchors` square priors a cell, points, objects, and predictions somewhat like the nearest objects."
    torch.manual_seed(seed)
    sizes = [tuple(math.ceil(side / s) for side in size) for s in strides]
    points = torch.cat(MlvlPointGenerator(strides).grid_priors(sizes, with_stride=True))
    priors = torch.cat(AnchorGenerator(strides, [1.], octave_base_scale=4, scales_per_octave=anchors, center_offset=.5).grid_priors(sizes))
    gts, labels = random_objects(batch, objects, size, seed), torch.randint(classes, (batch, objects))
    nearest = torch.cdist(box_centers(points_as_boxes(points)).expand(batch, -1, -1), box_centers(gts)).argmin(-1)
    preds = take_rows(gts, nearest)
    preds = torch.cat([preds[..., :2], preds[..., 2:].maximum(preds[..., :2] + 8)], dim=-1) + torch.rand(preds.shape) * 12
    return dict(size=size, strides=strides, sizes=sizes, levels=[h * w for h, w in sizes], points=points, priors=priors, gts=gts, labels=labels,
                preds=preds, logits=torch.randn(batch, len(points), classes) - 3)


def points_as_boxes(points): return torch.cat([points[:, :2] - points[:, 2:] / 2, points[:, :2] + points[:, 2:] / 2], dim=1)


def predicted(d): return dict(bbox_preds=d['preds'], cls_scores=d['logits'].sigmoid())


def responsible(d): return YOLOAnchorGenerator(d['strides'], [[(32, 32)]] * len(d['strides'])).responsible_flags(d['sizes'], d['gts'])


def with_flags(d):
    flags = responsible(d)
    return (lambda: GridAssigner(.5, .5).assign(d['priors'], d['gts'], responsible_flags=flags), lambda: loops.grid(d['priors'], d['gts'], flags))


def with_approxs(d):
    approxs = torch.stack([scale_about_center(d['priors'], scale) for scale in (.7, 1., 1.4)], dim=1)
    return (lambda: ApproxMaxIoUAssigner(.5, .4).assign(d['priors'], d['gts'], approxs=approxs),
            lambda: loops.approx_max_iou(d['priors'], d['gts'], approxs))


def with_layout(d):
    layout = dict(featmap_sizes=d['sizes'], num_level_anchors=d['levels'], anchor_scale=4., anchor_strides=d['strides'])
    return (lambda: RegionAssigner().assign(d['priors'], d['gts'], **layout), lambda: loops.region(d['priors'], d['gts'], **layout))


def matching(d):
    costs, queries = [FocalLossCost(weight=2.), BBoxL1Cost(weight=5.), IoUCost('giou', weight=2.)], slice(0, min(300, len(d['points'])))
    boxes, x = d['preds'][:, queries], d['logits'][:, queries]
    return (lambda: HungarianAssigner(costs).assign(None, d['gts'], d['labels'], bbox_preds=boxes, cls_scores=x, img_shape=d['size']),
            lambda: loops.hungarian(costs, d['gts'], d['labels'], boxes, x, d['size']))


RULES = {    # name: problem -> (ours, the loop)
    'max-IoU': lambda d: (lambda: MaxIoUAssigner(.5, .4).assign(d['priors'], d['gts']), lambda: loops.max_iou(d['priors'], d['gts'])),
    'approximate max-IoU': with_approxs, 'grid': with_flags, 'region': with_layout,
    'points': lambda d: (lambda: PointAssigner().assign(d['points'], d['gts']), lambda: loops.point(d['points'], d['gts'])),
    'uniform': lambda d: (lambda: UniformAssigner(.15, .7).assign(d['priors'], d['gts'], bbox_preds=d['preds']),
                          lambda: loops.uniform(d['priors'], d['gts'], d['preds'])),
    'center region': lambda d: (lambda: CenterRegionAssigner(.2, .5).assign(d['priors'], d['gts']), lambda: loops.center_region(d['priors'], d['gts'])),
    'ATSS': lambda d: (lambda: ATSSAssigner(9).assign(d['priors'], d['gts'], num_level_priors=d['levels']),
                       lambda: loops.atss(d['priors'], d['gts'], d['levels'])),
    'SimOTA': lambda d: (lambda: SimOTAAssigner().assign(d['points'], d['gts'], d['labels'], **predicted(d)),
                         lambda: loops.sim_ota(d['points'], d['gts'], d['labels'], d['preds'], d['logits'].sigmoid())),
    'soft labels': lambda d: (lambda: DynamicSoftLabelAssigner().assign(d['points'], d['gts'], d['labels'], bbox_preds=d['preds'], cls_scores=d['logits']),
                              lambda: loops.dynamic_soft_label(d['points'], d['gts'], d['labels'], d['preds'], d['logits'])),
    'task-aligned': lambda d: (lambda: TaskAlignedAssigner(13).assign(d['priors'], d['gts'], d['labels'], **predicted(d)),
                               lambda: loops.task_aligned(d['priors'], d['gts'], d['labels'], d['preds'], d['logits'].sigmoid())),
    'Hungarian': matching}


def other_coders(args):
    "Distances from a point beside torchvision's; the others beside a call for each image. A whole batch, encoded and decoded."
    data = problem(args.size, STRIDES, 8, 8)
    points, boxes = data['points'], points_as_boxes(data['points'])
    targets, linear, stride = data['preds'], BoxLinearCoder(normalize_by_size=False), data['points'][:, 2]
    distances, tblr, yolo, buckets = DistancePointBBoxCoder(clip_border=False), TBLRBBoxCoder(clip_border=False), YOLOBBoxCoder(), BucketingBBoxCoder(7, 1.7)

    def there_and_back(coder, priors, gts, *more): return coder.decode(priors, coder.encode(priors, gts, *more), *more)

    def linear_there_and_back(gts): return linear.decode(linear.encode(boxes, gts), boxes)

    def bucketing(gts):
        offsets, _, labels, _ = buckets.encode(boxes, gts)
        return buckets.decode(boxes, (labels, offsets))

    table = {'distances from a point': lambda gts: there_and_back(distances, points[:, :2], gts), 'TBLR': lambda gts: there_and_back(tblr, boxes, gts),
             'YOLO': lambda gts: there_and_back(yolo, boxes, gts, stride), 'buckets': bucketing}
    for name, f in table.items():
        functions = {'torchvision': lambda: [linear_there_and_back(gts) for gts in targets]} if name.startswith('dist') else {}
        report(f'{name}: 8 images, {len(points):,} priors, encoded and decoded',
               functions | {'an image at a time': lambda: [f(gts) for gts in targets], 'learndet': lambda: f(targets)}, args.repeat)


def samplers(priors, assigner, args):
    "Samplers beside torchvision's and beside loops over images, objects and intervals."
    assigned = assigner.assign(priors, random_objects(8, 8, args.size))
    labels, (B, P) = [codes.clamp(max=1).float() for codes in assigned.gt_inds], assigned.gt_inds.shape
    report('sampling 256 of each of 8 images', {'torchvision': lambda: BalancedPositiveNegativeSampler(256, .5)(labels),
                                                'loop over images': lambda: loops.random_sample(assigned, 256, .5),
                                                'learndet': lambda: RandomSampler(256, .5).sample(assigned)}, args.repeat * 2)
    bboxes, gts = random_objects(8, 2000, args.size), random_objects(8, 8, args.size)
    bboxes[:, 1000:] = gts.repeat(1, 125, 1) + torch.randn(8, 1000, 4) * (gts[..., 2:] - gts[..., :2]).repeat(1, 125, 2) / 8   # half near objects
    few = MaxIoUAssigner(.5, .5, .5, match_low_quality=False).assign(bboxes, gts)                       # of a second stage
    scores, losses = torch.rand(8, 2000), torch.rand(8, 2000)
    table = {'balanced over objects': (lambda: loops.random_sample(few, 256, .5, loops.balanced_positives), lambda: InstanceBalancedPosSampler(256, .5).sample(few)),
             'balanced over IoU': (lambda: loops.random_sample(few, 256, .5, negatives=lambda b, rows, num: loops.balanced_negatives(few.max_overlaps[b], rows, num)),
                                   lambda: IoUBalancedNegSampler(256, .5).sample(few)),
             'the hardest': (lambda: loops.ohem(few, losses, 256, .5), lambda: OHEMSampler(256, .5).sample(few, losses=losses)),
             'hierarchical local rank': (lambda: loops.random_sample(few, 256, .5, negatives=lambda b, rows, num: loops.score_hlr_negatives(bboxes[b], scores[b], rows, num)),
                                         lambda: ScoreHLRSampler(256, .5).sample(few, scores=scores, bboxes=bboxes, losses=losses))}
    for name, (loop, ours) in table.items():
        report(f'{name}: 256 of 2,000 of each of 8 images; ratios to the loop', {'loop over images': loop, 'learndet': ours}, args.repeat)


def aerial_cells(priors, levels, size, gts):
    "The rules of points, grids and regions on as many priors; what they take on top does not count."
    strides, sizes = torch.tensor(STRIDES).repeat_interleave(torch.tensor(levels))[:, None], [tuple(math.ceil(side / s) for side in size) for s in STRIDES]
    points, preds, flags = torch.cat([box_centers(priors), strides], dim=1), (priors + 4 * torch.randn_like(priors))[None], torch.rand(1, len(priors)) < .1
    layout = dict(featmap_sizes=sizes, num_level_anchors=levels, anchor_scale=4., anchor_strides=STRIDES)
    approxs = torch.stack([scale_about_center(priors, scale) for scale in (.7, 1., 1.4)], dim=1)
    return {'points': lambda: PointAssigner().assign(points, gts), 'grid': lambda: GridAssigner(.5, .5).assign(priors, gts, responsible_flags=flags),
            'uniform': lambda: UniformAssigner(.15, .7).assign(priors, gts, bbox_preds=preds), 'region': lambda: RegionAssigner().assign(priors, gts, **layout),
            'center region (961 MiB are the answer)': lambda: CenterRegionAssigner(.2, .5).assign(priors, gts),
            'approximate max-IoU': lambda: ApproxMaxIoUAssigner(.5, .4).assign(priors, gts, approxs=approxs)}


def aerial_pairs(priors, levels, size, gts, classes=80):
    "The rules that look at predictions, on as many priors; these do not count."
    strides, boxes = torch.tensor(STRIDES).repeat_interleave(torch.tensor(levels))[:, None].expand(-1, 2), (priors + 4 * torch.randn_like(priors))[None]
    points = torch.cat([box_centers(priors), strides], dim=1)
    seen = dict(gt_labels=torch.randint(classes, gts.shape[:2]), bbox_preds=boxes, cls_scores=torch.rand(1, len(priors), classes))
    return {'SimOTA': lambda: SimOTAAssigner().assign(points, gts, **seen), 'soft labels': lambda: DynamicSoftLabelAssigner().assign(points, gts, **seen),
            'task-aligned': lambda: TaskAlignedAssigner(13).assign(priors, gts, **seen)}


def aerial(priors, levels, size, objects=5000):
    "Peak memory of 5,000 objects against 200,000 priors, beside that of the matrix."
    gts = random_objects(1, objects, size)
    print(f'\n{objects:,} objects x {len(priors):,} priors: the matrix of IoUs would have {objects * len(priors) * 4 / 2 ** 20:,.0f} MiB')
    for name, f in {'max-IoU': lambda: MaxIoUAssigner(.5, .4).assign(priors, gts),
                    'ATSS': lambda: ATSSAssigner(9).assign(priors, gts, num_level_priors=levels)}.items():
        print(f'  {name:34}{peak_mib(f):10.1f} MiB')
    for name, f in (aerial_cells(priors, levels, size, gts) | aerial_pairs(priors, levels, size, gts)).items(): print(f'  {name:40}{peak_mib(f):10.1f} MiB')


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--objects', type=int, nargs='+', default=[8, 32], help='objects of an image')
    parser.add_argument('--size', type=int, nargs=2, default=[800, 1344], help='(H, W) of the image, pixels')
    parser.add_argument('--batch', type=int, default=2)
    parser.add_argument('--repeat', type=int, default=5)
    parser.add_argument('--compile', action='store_true', help='time the compiled assigner, too')
    parser.add_argument('--aerial', action='store_true', help='peak memory of 5,000 objects, too')
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)

    sizes = [tuple(math.ceil(side / s) for side in args.size) for s in STRIDES]
    generator = AnchorGenerator(STRIDES, [.5, 1., 2.], octave_base_scale=4, scales_per_octave=3)
    tv_generator = TVAnchorGenerator(tuple(tuple(round(s * 4 * 2 ** (n / 3)) for n in range(3)) for s in STRIDES), ((.5, 1., 2.),) * 5)
    images = ImageList(torch.zeros(args.batch, 3, *args.size), [tuple(args.size)] * args.batch)
    maps = [torch.zeros(args.batch, 1, *size) for size in sizes]
    priors = torch.cat(generator.grid_priors(sizes))
    print(f'torch {torch.__version__}, torchvision {torchvision.__version__}, one thread, on a shared machine, B = {args.batch}, P = {len(priors):,}')

    def fresh():
        generator._kept.clear()
        return generator.grid_priors(sizes)
    report('anchors', {'torchvision': lambda: tv_generator(images, maps), 'learndet, a new size': fresh,
                       'learndet, a size seen before': lambda: generator.grid_priors(sizes)}, args.repeat * 4, memory=False)

    small, ssd_sizes = ImageList(torch.zeros(args.batch, 3, 300, 300), [(300, 300)] * args.batch), [(n, n) for n in (38, 19, 10, 5, 3, 1)]
    tv_ssd, small_maps = DefaultBoxGenerator([[2], [2, 3], [2, 3], [2, 3], [2], [2]], steps=[8, 16, 32, 64, 100, 300]), [torch.zeros(1, 1, *n) for n in ssd_sizes]
    ssd_generator = SSDAnchorGenerator([8, 16, 32, 64, 100, 300], [[2], [2, 3], [2, 3], [2, 3], [2], [2]], scale_major=False)

    def fresh_ssd():
        ssd_generator._kept.clear()
        return ssd_generator.grid_priors(ssd_sizes)
    report("SSD's anchors, 300 x 300", {'torchvision': lambda: tv_ssd(small, small_maps), 'learndet, a new size': fresh_ssd,
                                        'learndet, a size seen before': lambda: ssd_generator.grid_priors(ssd_sizes)}, args.repeat * 4, memory=False)

    matcher, ssd, assigner = Matcher(.5, .4, allow_low_quality_matches=True), SSDMatcher(.5), MaxIoUAssigner(.5, .4)
    for G in args.objects:
        gts = random_objects(args.batch, G, args.size)
        functions = {'torchvision': lambda: [matcher(box_iou(boxes, priors)) for boxes in gts],
                     'torchvision, SSD': lambda: [ssd(box_iou(boxes, priors)) for boxes in gts],
                     'loop over images and objects': lambda: loops.max_iou(priors, gts),
                     'learndet': lambda: assigner.assign(priors, gts).gt_inds}
        if args.compile: functions['learndet, compiled'] = lambda f=torch.compile(assigner.assign, fullgraph=True): f(priors, gts)
        same = torch.equal(loops.max_iou(priors, gts), assigner.assign(priors, gts).gt_inds)
        report(f'max-IoU assignment, P = {len(priors):,}, G = {G} (equal to the loop: {same})', functions, max(args.repeat // 2, 1))

    levels = [9 * h * w for h, w in sizes]
    for G in args.objects:
        data = problem(args.size, STRIDES, args.batch, G)
        for name, rule in RULES.items():
            ours, loop = rule(data)
            same = (ours().gt_inds == loop()).float().mean().item()
            report(f'{name}, one prior a cell, G = {G} ({100 * same:.4g} % of the codes equal); ratios to the loop',
                   {'loop over images and objects': loop, 'learndet': ours}, max(args.repeat // 2, 1))
    if args.aerial: aerial(priors, levels, args.size)

    coder, tv_coder = DeltaXYWHBBoxCoder(), BoxCoder((1., 1., 1., 1.))
    matched = random_objects(1, len(priors), args.size)[0]
    deltas = coder.encode(priors, matched)
    report('encode', {'torchvision': lambda: tv_coder.encode_single(matched, priors), 'learndet': lambda: coder.encode(priors, matched)}, args.repeat * 2)
    report('decode', {'torchvision': lambda: tv_coder.decode_single(deltas, priors), 'learndet': lambda: coder.decode(priors, deltas)}, args.repeat * 2)

    other_coders(args)
    samplers(priors, assigner, args)


if __name__ == '__main__': main()
