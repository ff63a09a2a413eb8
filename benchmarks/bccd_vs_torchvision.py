"""Real photographs, the same minutes: our slim RetinaNet and a plain torchvision RetinaNet, trained side by side on BCCD.

    LEARNDET_DATASETS=DIR python benchmarks/bccd_vs_torchvision.py --minutes 12 --seeds 0

DIR holds the folder `bccd`. Each contender gets one process with the same number of threads, at the same time, from
random weights, and anneals its learning rate over the minutes it has, so that neither is cut off in the middle. Minutes
are processor time, reading pictures included, so that other work on the machine takes nothing from either. Both are
judged on the test split by the same COCO metric. The result is printed and, after every seed, kept under benchmarks/results/.
torchvision's side is the usual recipe: ResNet-18, FPN of 96 channels from stride 8, 240 x 320, batch 8, AdamW with a
cosine and flips. Ours is learndet/configs/bccd/retinanet_r18-slim_bccd.py as it stands: a slimmer network, batch 4, an average of the
weights. Both train under bfloat16 autocast where the processor has instructions for it (elsewhere it would only be slower).
"""
import argparse
import json
import math
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import torch

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / 'learndet/configs/bccd/retinanet_r18-slim_bccd.py'


def has_bf16():
    "Whether this processor computes in bfloat16."
    flags = Path('/proc/cpuinfo').read_text() if Path('/proc/cpuinfo').exists() else ''
    return 'avx512_bf16' in flags or 'amx_bf16' in flags


def autocast():
    "Layers in bfloat16, where that is faster."
    return torch.autocast('cpu', torch.bfloat16, enabled=has_bf16())


def loaders(config):
    "The config's training and test loaders."
    from learndet.engine.runner import loader_from_cfg
    return (loader_from_cfg(dict(config['train_dataloader'], num_workers=0, persistent_workers=False), 0, 'train_dataloader', True),
            loader_from_cfg(dict(config['test_dataloader'], num_workers=0, persistent_workers=False), 0, 'test_dataloader', False))


def ours(config, seed):
    "Model, loss of a batch, predictions of a batch, learning rate."
    from learndet.engine.runner import fill_num_classes
    from learndet.core.registry import build
    torch.manual_seed(seed)
    model = build(fill_num_classes(config['model'], tuple(config['metainfo']['classes']), 'BCCD'))
    model.init_weights()
    model = model.to(memory_format=torch.channels_last)

    def loss(data):
        with autocast(): return sum(v for k, v in model(**model.preprocess(data, True), mode='loss').items() if 'loss' in k)
    return model, loss, model.val_step, config['optim_wrapper']['optimizer']['lr']


def theirs(config, seed):
    "The same for torchvision."
    from torchvision.models import resnet18
    from torchvision.models.detection import RetinaNet
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.models.detection.backbone_utils import BackboneWithFPN
    from torchvision.ops.feature_pyramid_network import LastLevelP6P7
    from learndet.structures.instance_data import InstanceData
    torch.manual_seed(seed)
    body = resnet18(weights=None)
    backbone = BackboneWithFPN(body, {'layer2': '0', 'layer3': '1', 'layer4': '2'}, [128, 256, 512], 96, LastLevelP6P7(96, 96))
    sizes = tuple((x, int(x * 2 ** (1 / 3)), int(x * 2 ** (2 / 3))) for x in (32, 64, 128, 256, 512))
    model = RetinaNet(backbone, 3, anchor_generator=AnchorGenerator(sizes, ((.5, 1., 2.),) * 5), min_size=240, max_size=320)
    pictures = lambda data: [p.flip(0).float() / 255 for p in data['inputs']]

    def loss(data):
        targets = [dict(boxes=s.gt_instances.bboxes, labels=s.gt_instances.labels) for s in data['data_samples']]
        with autocast(): return sum(model(pictures(data), targets).values())

    def predict(data):
        with torch.no_grad(): found = model(pictures(data))
        for sample, f in zip(data['data_samples'], found):
            w, h = sample.metainfo['scale_factor'][:2]
            sample.pred_instances = InstanceData(bboxes=f['boxes'] / torch.tensor([w, h, w, h]), scores=f['scores'], labels=f['labels'])
        return data['data_samples']
    return model, loss, predict, 5e-4


def train_for(minutes, model, loss, lr, loader, average=None):
    "Steps until the time is up; the learning rate warms up and falls along a cosine of the time spent."
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=.05)
    model.train()
    started, steps, epoch = time.process_time(), 0, 0
    while True:
        loader.batch_sampler.set_epoch(epoch)
        for data in loader:
            spent = (time.process_time() - started) / (60 * minutes)
            if spent >= 1: return steps, epoch
            rate = lr * min(1, (steps + 1) / 100) * max(.01, .5 * (1 + math.cos(math.pi * spent)))
            for group in optimizer.param_groups: group['lr'] = rate
            optimizer.zero_grad()
            loss(data).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 10.)
            optimizer.step()
            if average is not None: average.update_parameters(model)
            steps += 1
        epoch += 1


def contender(name, minutes, seed, threads):
    "Train and judge one of the two; its result as a dict."
    torch.set_num_threads(threads)
    from learndet.engine.config import Config
    from learndet.engine.ema import ExponentialMovingAverage
    from learndet.evaluation.coco_metric import CocoMetric
    config = Config.fromfile(str(CONFIG)).to_dict()
    if name == 'torchvision': config['train_dataloader']['batch_size'] = 8
    train_loader, test_loader = loaders(config)
    model, loss, predict, lr = dict(ours=ours, torchvision=theirs)[name](config, seed)
    average = ExponentialMovingAverage(model, momentum=.01) if name == 'ours' else None
    steps, epochs = train_for(minutes, model, loss, lr, train_loader, average)
    if average is not None: model.load_state_dict(average.module.state_dict())
    model.eval()
    metric = CocoMetric(metric='bbox', classwise=True)
    metric.set_ground_truth(test_loader.dataset.ground_truth())
    for data in test_loader: metric.process(predict(data))
    found = metric.evaluate()
    found.update({f'coco/bbox_{c}_precision_50': metric.found['bbox'].ap(.5, label=k) for k, c in enumerate(config['metainfo']['classes'])})
    return dict(contender=name, seed=seed, minutes=minutes, threads=threads, steps=steps, epochs=epochs,
                parameters=sum(p.numel() for p in model.parameters()), **{k: round(float(v), 4) for k, v in found.items()})


def mean_of(results, name, key):
    "A number's mean over the seeds of one contender."
    values = [r[key] for r in results if r['contender'] == name]
    return sum(values) / len(values)


def keep(results, out):
    "Write what is known so far."
    machine = f'{platform.processor() or platform.machine()}, {os.cpu_count()} cores, bf16 {has_bf16()}'
    Path(out).write_text(json.dumps(dict(machine=machine, torch=torch.__version__, results=results), indent=1) + '\n')


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--minutes', type=float, default=12, help='of processor time, for each contender')
    parser.add_argument('--seeds', type=int, nargs='+', default=[0])
    parser.add_argument('--threads', type=int, default=1, help='of each contender')
    parser.add_argument('--contender', choices=['ours', 'torchvision'], help='run only this one, in this process')
    parser.add_argument('--out', default=str(ROOT / 'benchmarks/results/bccd_vs_torchvision.json'))
    args = parser.parse_args()
    os.environ.setdefault('MMDET_DATASETS', os.environ.get('LEARNDET_DATASETS', 'data'))
    if args.contender: return print(json.dumps(contender(args.contender, args.minutes, args.seeds[0], args.threads)))
    results = []
    for seed in args.seeds:
        command = [sys.executable, __file__, '--minutes', str(args.minutes), '--seeds', str(seed), '--threads', str(args.threads), '--contender']
        running = [subprocess.Popen(command + [name], stdout=subprocess.PIPE, text=True) for name in ('ours', 'torchvision')]
        for process in running:
            results.append(json.loads(process.communicate()[0].strip().splitlines()[-1]))
            print({k: v for k, v in results[-1].items() if not k.endswith(('_s', '_m', '_l')) and 'AR' not in k}, flush=True)
        keep(results, args.out)
    for name in ('ours', 'torchvision'):
        print(name, *(f'{k} {mean_of(results, name, f"coco/bbox_{k}"):.3f}' for k in ('mAP', 'mAP_50')), f'over {len(args.seeds)} seed(s)')


if __name__ == '__main__': main()
