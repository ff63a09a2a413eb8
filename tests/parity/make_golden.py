"""Facts of MMDetection's configs, read off MMDetection 3.3 itself: a row a config, with its losses and predictions.

LEARNDET_MMDET=folder python tests/parity/make_golden.py OUT.jsonl CONFIG ... appends to OUT; a config may be followed by fields of its
row, as in CONFIG,weights_seed=1,size=100x140.
The recipe is that of the facts folder's README: no threshold, every candidate sampled, no download, BN for SyncBN; `fill` and `pictures` of
its inputs.py; predictions first, then losses in training mode, drawn from seed 0. Fast R-CNN is given `golden.proposals`.
LEARNDET_MMDET holds mmdet, mmengine and mmcv-lite (mmdet_reference.py says how); operators are those of mmcv_operators.py.
"""
import hashlib
import json
import os
import sys
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))
from golden import batch_of, inputs_module, model_config

SLOW = 'mask-rcnn', '-c4', 'resnest/', 'gn+ws/', 'gn-all', 'hrnet/cascade'       # second stages that take minutes over a thousand regions


def load():
    "MMDetection with working operators."
    sys.path.append(os.environ['LEARNDET_MMDET'])
    import mmcv_operators
    mmcv_operators.install()
    import mmdet.models
    from mmdet.utils import register_all_modules
    register_all_modules(init_default_scope=True)


def model_of(row):
    "A config of MMDetection's wheel, read by MMEngine and built by MMDetection."
    from mmdet.registry import MODELS
    from mmengine.config import Config, ConfigDict
    config = Config.fromfile(Path(os.environ['LEARNDET_MMDET']) / 'mmdet' / '.mim' / 'configs' / row['config'])
    return MODELS.build(ConfigDict(model_config(config, row)))


def batch(row, inputs):
    "The row's pictures in MMDetection's classes."
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks
    from mmengine.structures import InstanceData
    return batch_of(row, inputs, DetDataSample, InstanceData, BitmapMasks)


def prediction(sample, keep=20):
    "What is stored of one picture: how many, and the first of them."
    found = sample.pred_instances
    best = dict(scores=found.scores[:keep], labels=found.labels[:keep], bboxes=found.bboxes[:keep])
    if 'masks' in found: best['mask_areas'] = found.masks[:keep].flatten(1).sum(1)
    digits = dict(scores=6, bboxes=3)
    return dict(n=len(found), **{k: np.round(v.double().numpy(), digits[k]).tolist() if k in digits else v.tolist() for k, v in best.items()})


@torch.no_grad()
def facts(row, inputs):
    "The row with what MMDetection says about it."
    model = model_of(row)
    classes = [m.num_classes for m in model.modules() if getattr(m, 'num_classes', None) and 'RPN' not in type(m).__name__]
    if classes and min(classes) < 3: row = dict(row, classes=min(classes))
    keys = '\n'.join(f"{k}:{'x'.join(map(str, v.shape))}" for k, v in model.state_dict().items())
    inputs.fill(model, row['weights_seed'])
    found = model.eval().test_step(batch(row, inputs))
    model.train()
    torch.manual_seed(0)
    losses = model(**model.data_preprocessor(batch(row, inputs), True), mode='loss')
    number = lambda v: [float(f'{float(x):.7g}') for x in v] if isinstance(v, (list, tuple)) else float(f'{float(v):.7g}')
    row = dict(row, cpu=torch.backends.cpu.get_cpu_capability())
    return dict(row, keys_sha256=hashlib.sha256(keys.encode()).hexdigest(), loss={k: number(v) for k, v in losses.items()}, preds=[prediction(s) for s in found])


def row_of(name):
    "What is asked of a config: 'retinanet/retinanet_r50_fpn_1x_coco.py,weights_seed=1,size=100x140'."
    config, *options = name.split(',')
    row = dict(config=config, weights_seed=0, batch_seed=0, size=[128, 160], gts=2)
    if 'fast-rcnn' in config: row['proposals'] = 40
    elif any(slow in config for slow in SLOW) and not config.startswith('rpn/'): row['regions'] = 100
    if 'lsj' in config or 'ssj' in config: row['fixed_pad'] = 192
    for key, _, value in (option.partition('=') for option in options):
        row[key] = [int(v) for v in value.split('x')] if key == 'size' else int(value)
    return row


if __name__ == '__main__':
    load()
    torch.set_num_threads(1)
    out, inputs = Path(sys.argv[1]), inputs_module()
    for name in sys.argv[2:]:
        begin = time.process_time()
        row = facts(row_of(name), inputs)
        with out.open('a') as f: f.write(json.dumps(row, separators=(',', ':')) + '\n')
        print(f'{name}: {time.process_time() - begin:.0f} s of processor time', flush=True)
