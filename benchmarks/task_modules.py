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
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler, BoxCoder, Matcher
from torchvision.models.detection.anchor_utils import AnchorGenerator as TVAnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import box_iou

from learndet.structures.overlaps import bbox_overlaps
from learndet.task_modules.assigners.atss import ATSSAssigner
from learndet.task_modules.assigners.max_iou_assigner import MaxIoUAssigner
from learndet.task_modules.coders.delta_xywh_coder import DeltaXYWHBBoxCoder
from learndet.task_modules.prior_generators.anchor_generator import AnchorGenerator
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


def random_objects(B, G, size):
    "(B, G, 4) xyxy boxes of 16 to 400 pixels."
    generator = torch.Generator().manual_seed(0)
    side = 16 * 25 ** torch.rand(B, G, 2, generator=generator)
    center = torch.rand(B, G, 2, generator=generator) * torch.tensor(size[::-1], dtype=torch.float32)
    return torch.cat([center - side / 2, center + side / 2], dim=-1)


def assign_loop(priors, gts, pos=.5, neg=.4):
    "The rules with a loop over images and one over objects, and the whole IoU matrix."
    out = []
    for boxes in gts:
        iou = bbox_overlaps(boxes, priors)
        best, index = iou.max(dim=0)
        codes = torch.full_like(index, -1)
        codes[best < neg] = 0
        codes[best >= pos] = index[best >= pos] + 1
        for i, most in enumerate(iou.amax(dim=1)):
            if most > 0: codes[iou[i] == most] = i + 1
        out.append(codes)
    return torch.stack(out)


def atss_loop(priors, gts, levels, topk=9):
    "The algorithm with a loop over images and one over objects, and the whole matrices of IoU and distance."
    center, out = (priors[:, :2] + priors[:, 2:]) / 2, []
    for boxes in gts:
        iou, middle = bbox_overlaps(boxes, priors), (boxes[:, :2] + boxes[:, 2:]) / 2
        distance, best, codes = (middle[:, None] - center).square().sum(-1), torch.zeros(len(priors)), torch.zeros(len(priors), dtype=torch.long)
        for i, box in enumerate(boxes):
            starts = [sum(levels[:n]) for n in range(len(levels))]
            near = torch.cat([s + distance[i, s:s + n].topk(min(topk, n), largest=False).indices for s, n in zip(starts, levels)])
            own = iou[i, near]
            inside = torch.cat([center[near] - box[:2], box[2:] - center[near]], dim=1).amin(1) > .01
            near, own = near[keep := (own >= own.mean() + own.std()) & inside], own[keep]
            better = own > best[near]
            codes[near[better]], best[near[better]] = i + 1, own[better]
        out.append(codes)
    return torch.stack(out)


def aerial(priors, levels, size, objects=5000):
    "Peak memory of 5,000 objects against 200,000 priors, beside that of the matrix."
    gts = random_objects(1, objects, size)
    print(f'\n{objects:,} objects x {len(priors):,} priors: the matrix of IoUs would have {objects * len(priors) * 4 / 2 ** 20:,.0f} MiB')
    for name, f in {'max-IoU': lambda: MaxIoUAssigner(.5, .4).assign(priors, gts),
                    'ATSS': lambda: ATSSAssigner(9).assign(priors, gts, num_level_priors=levels)}.items():
        print(f'  {name:34}{peak_mib(f):10.1f} MiB')


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
    print(f'torch {torch.__version__}, one thread, B = {args.batch}, P = {len(priors):,}')

    def fresh():
        generator._kept.clear()
        return generator.grid_priors(sizes)
    report('anchors', {'torchvision': lambda: tv_generator(images, maps), 'learndet, a new size': fresh,
                       'learndet, a size seen before': lambda: generator.grid_priors(sizes)}, args.repeat * 4, memory=False)

    matcher, assigner = Matcher(.5, .4, allow_low_quality_matches=True), MaxIoUAssigner(.5, .4)
    for G in args.objects:
        gts = random_objects(args.batch, G, args.size)
        functions = {'torchvision': lambda: [matcher(box_iou(boxes, priors)) for boxes in gts],
                     'loop over images and objects': lambda: assign_loop(priors, gts),
                     'learndet': lambda: assigner.assign(priors, gts).gt_inds}
        if args.compile: functions['learndet, compiled'] = lambda f=torch.compile(assigner.assign, fullgraph=True): f(priors, gts)
        same = torch.equal(assign_loop(priors, gts), assigner.assign(priors, gts).gt_inds)
        report(f'max-IoU assignment, G = {G} (equal to the loop: {same})', functions, max(args.repeat // 2, 1))

    levels = [9 * h * w for h, w in sizes]
    for G in args.objects:
        gts, atss = random_objects(args.batch, G, args.size), ATSSAssigner(9)
        same = torch.equal(atss_loop(priors, gts, levels), atss.assign(priors, gts, num_level_priors=levels).gt_inds)
        functions = {'loop over images and objects': lambda: atss_loop(priors, gts, levels),
                     'learndet': lambda: atss.assign(priors, gts, num_level_priors=levels)}
        report(f'ATSS, G = {G} (equal to the loop: {same}); ratios to the loop', functions, max(args.repeat // 2, 1))
    if args.aerial: aerial(priors, levels, args.size)

    coder, tv_coder = DeltaXYWHBBoxCoder(), BoxCoder((1., 1., 1., 1.))
    matched = random_objects(1, len(priors), args.size)[0]
    deltas = coder.encode(priors, matched)
    report('encode', {'torchvision': lambda: tv_coder.encode_single(matched, priors), 'learndet': lambda: coder.encode(priors, matched)}, args.repeat * 2)
    report('decode', {'torchvision': lambda: tv_coder.decode_single(deltas, priors), 'learndet': lambda: coder.decode(priors, deltas)}, args.repeat * 2)

    assigned = assigner.assign(priors, random_objects(8, 8, args.size))
    labels = [codes.clamp(max=1).float() for codes in assigned.gt_inds]
    report('sampling 256 of each of 8 images', {'torchvision': lambda: BalancedPositiveNegativeSampler(256, .5)(labels),
                                                'learndet': lambda: RandomSampler(256, .5).sample(assigned)}, args.repeat * 2)


if __name__ == '__main__': main()
