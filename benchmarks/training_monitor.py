"""What watching costs: the same training steps with and without a TrainingMonitor, in alternating runs of one process.

    python benchmarks/training_monitor.py [--steps 60] [--rounds 7] [--device cpu] [--channels 16]

Prints the median over rounds of (time with the monitor) / (time without it), of a tiny RetinaNet on the sample pictures, for the
monitor with its widget and, to see the noise of this machine, for no monitor against no monitor.
"""
import argparse
import statistics
import tempfile
import time

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
    "Training time of so many steps; the first five, which warm up, not counted."
    torch.manual_seed(0)
    dataset = CocoDataset(ann_file='train.json', data_root=str(samples_dir()), data_prefix=dict(img='JPEGImages'),
                          pipeline=[LoadImageFromFile(), LoadAnnotations(), PackDetInputs()])
    model = retinanet(len(CLASSES), ResNet(18), channels=channels, stacked_convs=1,
                      data_preprocessor=DetDataPreprocessor([120.] * 3, [60.] * 3, bgr_to_rgb=True, pad_size_divisor=32)).to(device)
    class Clock(Hook):
        priority, at = 'HIGHEST', 0.
        def before_train_iter(self, runner, batch_idx, data_batch=None):
            if runner.iter == 5: self.at = self.now()
        def now(self): return (torch.cuda.synchronize() if device != 'cpu' else None) or time.perf_counter()
    clock = Clock()
    optim = OptimWrapper(torch.optim.SGD(model.parameters(), lr=.002, momentum=.9), clip_grad=dict(max_norm=10))
    runner = Runner(model, tempfile.mkdtemp(), build_dataloader(dataset, batch_size=2), train_cfg=IterBasedTrainLoop(steps), optim_wrapper=optim,
                    default_hooks=dict.fromkeys(('checkpoint', 'visualization', 'progress')), custom_hooks=[clock, *hooks], seed=0, log_level='ERROR')
    runner.train()
    return clock.now() - clock.at


def main(steps, rounds, device, channels):
    torch.set_num_threads(1)
    seconds(8, device, channels, [])
    watched, noise, ticks = [], [], []
    for _ in range(rounds):
        monitor = TrainingMonitor()
        a, b, c = seconds(steps, device, channels, []), seconds(steps, device, channels, [monitor]), seconds(steps, device, channels, [])
        watched.append(2 * b / (a + c))
        noise.append(c / a)
        ticks.append(monitor.drawn / b)
    where = torch.cuda.get_device_name() if device != 'cpu' else 'CPU'
    print(f'{where}: with monitor / without {statistics.median(watched):.4f} (rounds {min(watched):.3f} to {max(watched):.3f}), '
          f'without / without {statistics.median(noise):.4f} ({min(noise):.3f} to {max(noise):.3f}), {statistics.median(ticks):.1f} pictures a second')


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--steps', type=int, default=60)
    parser.add_argument('--rounds', type=int, default=7)
    parser.add_argument('--device', default='cpu')
    parser.add_argument('--channels', type=int, default=16)
    main(**vars(parser.parse_args()))
