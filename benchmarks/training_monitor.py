"""What watching costs: one training in which a TrainingMonitor is switched on and off, block by block of steps.

    python benchmarks/training_monitor.py [--block 10] [--blocks 24] [--device cpu] [--channels 16]

Prints the median, over pairs of neighbouring blocks, of (time with the monitor) / (time without it), in wall time and in processor time
of the kernel; the same of pairs without, to see the noise of this machine; and the share of the time that was spent in the monitor's own
methods, which is far less noisy. It runs in a Jupyter kernel, because only there the widget has somebody to send to.
"""
import argparse
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


class Switched(TrainingMonitor):
    "A monitor with a switch, that knows how long it was at work."
    on, inside = True, 0.
    def timed(self, method, *args):
        start = time.perf_counter()
        try: return method(*args) if self.on else None
        finally: self.inside += (time.perf_counter() - start) * self.on
    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None): self.timed(super().after_train_iter, runner, batch_idx, data_batch, outputs)
    def measure(self, *args): self.timed(super().measure, *args)
    def saw(self, *args): self.timed(super().saw, *args)


class Clock(Hook):
    "Switches the monitor at the border of blocks (on, off, off, on, …), and notes the time there."
    priority = 'HIGHEST'
    def __init__(self, monitor, block): self.monitor, self.block, self.marks = monitor, block, []
    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter % self.block: return
        if runner.device.type == 'cuda': torch.cuda.synchronize()
        self.monitor.on = runner.iter // self.block % 4 in (0, 3)
        self.marks.append((self.monitor.on, time.perf_counter(), time.process_time()))


def measure(block, blocks, device, channels):
    "In the kernel: one training, and three lines of results."
    torch.set_num_threads(1)
    torch.manual_seed(0)
    dataset = CocoDataset(ann_file='train.json', data_root=str(samples_dir()), data_prefix=dict(img='JPEGImages'),
                          pipeline=[LoadImageFromFile(), LoadAnnotations(), PackDetInputs()])
    model = retinanet(len(CLASSES), ResNet(18), channels=channels, stacked_convs=1,
                      data_preprocessor=DetDataPreprocessor([120.] * 3, [60.] * 3, bgr_to_rgb=True, pad_size_divisor=32)).to(device)
    monitor = Switched()
    clock = Clock(monitor, block)
    optim = OptimWrapper(torch.optim.SGD(model.parameters(), lr=.002, momentum=.9), clip_grad=dict(max_norm=10))
    Runner(model, tempfile.mkdtemp(), build_dataloader(dataset, batch_size=2), train_cfg=IterBasedTrainLoop(block * (blocks + 2) + 1), optim_wrapper=optim,
           default_hooks=dict.fromkeys(('checkpoint', 'visualization', 'progress')), custom_hooks=[clock, monitor], seed=0, log_level='ERROR').train()
    times = [(on, b[1] - a, b[2] - c) for (on, a, c), b in zip(clock.marks, clock.marks[1:])][1:]           # the first block warms up
    ratios = {}
    for first, second in zip(times, times[1:]):
        kind = 'without / without' if not first[0] and not second[0] else 'with / without' if first[0] != second[0] else None
        if kind: ratios.setdefault(kind, []).append([(first[k] / second[k] if first[0] or not second[0] else second[k] / first[k]) for k in (1, 2)])
    busy = sum(t[1] for t in times if t[0])
    where = torch.cuda.get_device_name() if device != 'cpu' else 'CPU, one thread'
    print(f'{where}, {blocks} blocks of {block} steps, {monitor.drawn / busy:.1f} pictures a second; {monitor.inside / busy:.2%} of the time is spent in the monitor')
    for kind, rows in ratios.items():
        wall, processor = ([f'{statistics.median(v):.4f} ({min(v):.3f} to {max(v):.3f})' for v in zip(*rows)])
        print(f'  {kind:18} wall time {wall}, processor time {processor}, {len(rows)} pairs')


def main(**settings):
    from nbclient import NotebookClient
    from nbformat import v4
    cell = f'import sys; sys.path[:0] = [{str(Path(__file__).parent)!r}]; import training_monitor; training_monitor.measure(**{settings!r})'
    nb = NotebookClient(v4.new_notebook(cells=[v4.new_code_cell(cell)]), timeout=3600, kernel_name='python3').execute()
    print(''.join(out.get('text', '') for out in nb.cells[0].outputs), end='')


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--block', type=int, default=10)
    parser.add_argument('--blocks', type=int, default=24)
    parser.add_argument('--device', default='cpu')
    parser.add_argument('--channels', type=int, default=16)
    main(**vars(parser.parse_args()))
