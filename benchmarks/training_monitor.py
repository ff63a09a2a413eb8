"""What watching costs: one training in which a TrainingMonitor comes and goes, block by block of steps.

    python benchmarks/training_monitor.py [--block 10] [--blocks 120] [--device cpu] [--channels 16]

Blocks go with, without, without, with, …, so that neighbours make pairs of every kind, and what drifts (heat, other users) meets both sides alike.
Printed are medians over pairs of (processor time with the monitor) / (without), with the interval in which 95 % of medians of redrawn pairs lie; the same
for pairs without / without, which is the noise of this machine; wall times beside them; and the processor time inside the monitor's own methods as a
share of all, which is far less noisy. Processor time counts every thread of the process, so also what is sent. It runs in a Jupyter kernel, because only
there the widget has somebody to send to. The promise is a ratio of at most 1.02.
"""
import argparse
import random
import statistics
import tempfile
import time
from pathlib import Path

import torch

from learndet.core.samples import CLASSES, samples_dir
from learndet.data.coco import CocoDataset
from learndet.data.preprocessor import DetDataPreprocessor
from learndet.data.samplers import build_dataloader
from learndet.data.transforms.formatting import PackDetInputs
from learndet.data.transforms.loading import LoadAnnotations, LoadImageFromFile
from learndet.engine.hooks import Hook
from learndet.engine.optimizers import OptimWrapper
from learndet.engine.runner import IterBasedTrainLoop, Runner
from learndet.models.backbones.resnet import ResNet
from learndet.visualization.training_monitor import TrainingMonitor
from learndet.zoo.retinanet import retinanet


class Timed(TrainingMonitor):
    "A monitor that knows how long it was at work."
    inside = 0.
    def timed(self, method, *args):
        start = time.thread_time()
        try: return method(*args)
        finally: self.inside += time.thread_time() - start
    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None): self.timed(super().after_train_iter, runner, batch_idx, data_batch, outputs)
    def measure(self, *args): self.timed(super().measure, *args)
    def saw(self, *args): self.timed(super().saw, *args)


class Clock(Hook):
    "At the border of blocks the monitor comes or goes (with, without, without, with, …), and the time is noted."
    priority = 'HIGHEST'
    def __init__(self, monitor, block): self.monitor, self.block, self.marks = monitor, block, []
    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter % self.block: return
        if runner.device.type == 'cuda': torch.cuda.synchronize()
        end, watched = (time.process_time(), time.perf_counter()), runner.iter // self.block % 4 in (0, 3)
        if watched != (self.monitor.undo is not None): self.monitor.before_train(runner) if watched else self.monitor.detach()
        self.marks.append((end, (time.process_time(), time.perf_counter()), watched, self.monitor.inside))


def median_and_interval(values, draws=2000):
    "The median, and where 95 % of the medians of redrawn values lie."
    rng = random.Random(0)
    medians = sorted(statistics.median(rng.choices(values, k=len(values))) for _ in range(draws))
    return f'{statistics.median(values):.4f} [{medians[draws // 40]:.4f}, {medians[-draws // 40]:.4f}]'


def measure(block, blocks, device, channels):
    "In the kernel: one training, and a line of results for each kind of pair."
    torch.set_num_threads(1)
    torch.manual_seed(0)
    dataset = CocoDataset(ann_file='train.json', data_root=str(samples_dir()), data_prefix=dict(img='JPEGImages'),
                          pipeline=[LoadImageFromFile(), LoadAnnotations(), PackDetInputs()])
    model = retinanet(len(CLASSES), ResNet(18), channels=channels, stacked_convs=1,
                      data_preprocessor=DetDataPreprocessor([120.] * 3, [60.] * 3, bgr_to_rgb=True, pad_size_divisor=32)).to(device)
    monitor = Timed()
    clock = Clock(monitor, block)
    optim = OptimWrapper(torch.optim.SGD(model.parameters(), lr=.002, momentum=.9), clip_grad=dict(max_norm=10))
    Runner(model, tempfile.mkdtemp(), build_dataloader(dataset, batch_size=2), train_cfg=IterBasedTrainLoop(block * (blocks + 2) + 1), optim_wrapper=optim,
           default_hooks=dict.fromkeys(('checkpoint', 'visualization', 'progress')), custom_hooks=[clock, monitor], seed=0, log_level='ERROR').train()
    times = [(a[2], b[0][0] - a[1][0], b[0][1] - a[1][1], b[3] - a[3]) for a, b in zip(clock.marks, clock.marks[1:])][1:]     # the first block warms up
    ratios = {}
    for first, second in zip(times, times[1:]):
        if first[0] and second[0]: continue
        kind, (over, under) = ('without / without', (first, second)) if not first[0] and not second[0] else ('with / without', sorted([first, second], key=lambda t: not t[0]))
        ratios.setdefault(kind, []).append([over[k] / under[k] for k in (1, 2)])
    watched = [t for t in times if t[0]]
    where = torch.cuda.get_device_name() if device != 'cpu' else 'CPU, one thread'
    print(f'{where}, {len(times)} blocks of {block} steps, {statistics.median(t[1] for t in times) / block:.3f} s of processor time a step; '
          f'{sum(t[3] for t in watched) / sum(t[1] for t in watched):.2%} of it is spent in the monitor, {monitor.drawn / sum(t[2] for t in watched):.1f} pictures a second')
    for kind, rows in ratios.items():
        processor, wall = map(median_and_interval, zip(*rows))
        print(f'  {kind:18} processor time {processor}, wall time {wall}, {len(rows)} pairs')


def main(**settings):
    from nbclient import NotebookClient
    from nbformat import v4
    cell = f'import sys; sys.path[:0] = [{str(Path(__file__).parent)!r}]; import training_monitor; training_monitor.measure(**{settings!r})'
    nb = NotebookClient(v4.new_notebook(cells=[v4.new_code_cell(cell)]), timeout=3600, kernel_name='python3').execute()
    print(''.join(out.get('text', '') for out in nb.cells[0].outputs), end='')


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--block', type=int, default=10)
    parser.add_argument('--blocks', type=int, default=120)
    parser.add_argument('--device', default='cpu')
    parser.add_argument('--channels', type=int, default=16)
    main(**vars(parser.parse_args()))
