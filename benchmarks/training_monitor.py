"""What watching costs: the same training steps with and without a TrainingMonitor, in alternating runs of one Jupyter kernel.

    python benchmarks/training_monitor.py [--steps 40] [--rounds 5] [--device cpu] [--channels 16]

Prints the median over rounds of (with the monitor) / (without it), in wall time and in processor time, of a tiny RetinaNet on the
sample pictures; to see the noise of this machine, the same of no monitor against no monitor; and the share of the time that was spent
in the monitor's own methods, which is far less noisy. It runs in a kernel, because only there the widget has somebody to send to.
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


def seconds(steps, device, channels, hooks):
    "Wall and processor time of so many training steps; the first five, which warm up, not counted."
    torch.manual_seed(0)
    dataset = CocoDataset(ann_file='train.json', data_root=str(samples_dir()), data_prefix=dict(img='JPEGImages'),
                          pipeline=[LoadImageFromFile(), LoadAnnotations(), PackDetInputs()])
    model = retinanet(len(CLASSES), ResNet(18), channels=channels, stacked_convs=1,
                      data_preprocessor=DetDataPreprocessor([120.] * 3, [60.] * 3, bgr_to_rgb=True, pad_size_divisor=32)).to(device)
    class Clock(Hook):
        priority, at = 'HIGHEST', (0., 0.)
        def before_train_iter(self, runner, batch_idx, data_batch=None):
            if runner.iter == 5: self.at = self.now()
        def now(self):
            if device != 'cpu': torch.cuda.synchronize()
            return time.perf_counter(), time.process_time()
    clock = Clock()
    optim = OptimWrapper(torch.optim.SGD(model.parameters(), lr=.002, momentum=.9), clip_grad=dict(max_norm=10))
    runner = Runner(model, tempfile.mkdtemp(), build_dataloader(dataset, batch_size=2), train_cfg=IterBasedTrainLoop(steps), optim_wrapper=optim,
                    default_hooks=dict.fromkeys(('checkpoint', 'visualization', 'progress')), custom_hooks=[clock, *hooks], seed=0, log_level='ERROR')
    runner.train()
    return [b - a for a, b in zip(clock.at, clock.now())]


class Counted(TrainingMonitor):
    "A monitor that knows how long it was at work."
    inside = 0.
    def timed(self, method, *args):
        start = time.perf_counter()
        try: return method(*args)
        finally: self.inside += time.perf_counter() - start
    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None): self.timed(super().after_train_iter, runner, batch_idx, data_batch, outputs)
    def measure(self, *args): self.timed(super().measure, *args)
    def saw(self, *args): self.timed(super().saw, *args)


def measure(steps, rounds, device, channels):
    "In the kernel: all rounds, and a line of results."
    torch.set_num_threads(1)
    seconds(8, device, channels, [])
    rows, pictures, shares = [], [], []
    for _ in range(rounds):
        monitor = Counted()
        a, b, c = seconds(steps, device, channels, []), seconds(steps, device, channels, [monitor]), seconds(steps, device, channels, [])
        rows.append([f(k) for k in (0, 1) for f in (lambda k: 2 * b[k] / (a[k] + c[k]), lambda k: c[k] / a[k])])
        pictures.append(monitor.drawn / b[0])
        shares.append(monitor.inside / b[0])
    where = torch.cuda.get_device_name() if device != 'cpu' else 'CPU, one thread'
    words = [f'{statistics.median(v):.4f} ({min(v):.3f} to {max(v):.3f})' for v in zip(*rows)]
    print(f'{where}, {rounds} rounds of {steps} steps, {statistics.median(pictures):.1f} pictures a second; '
          f'{statistics.median(shares):.2%} of the time is spent in the monitor ({min(shares):.2%} to {max(shares):.2%})\n'
          f'  wall time:      with / without {words[0]}, without / without {words[1]}\n'
          f'  processor time: with / without {words[2]}, without / without {words[3]}')


def main(**settings):
    from nbclient import NotebookClient
    from nbformat import v4
    cell = f'import sys; sys.path[:0] = [{str(Path(__file__).parent)!r}]; import training_monitor; training_monitor.measure(**{settings!r})'
    nb = NotebookClient(v4.new_notebook(cells=[v4.new_code_cell(cell)]), timeout=3600, kernel_name='python3').execute()
    print(''.join(out.get('text', '') for out in nb.cells[0].outputs), end='')


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--steps', type=int, default=40)
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument('--device', default='cpu')
    parser.add_argument('--channels', type=int, default=16)
    main(**vars(parser.parse_args()))
