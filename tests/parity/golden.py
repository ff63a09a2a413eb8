"""What the golden runs of MMDetection 3.3 and ours share: the changed config, and the inputs."""
import importlib.util
import os
from pathlib import Path

import numpy as np
import torch

FOLDER = Path(os.environ.get('LEARNDET_PARITY') or Path(__file__).parents[3] / 'shared' / 'parity')
EVERYTHING = 1_000_000       # candidates sampled: all there are


def prepared(value):
    "A model config with nothing left to chance: no threshold, every candidate sampled, no download, BN for SyncBN."
    if isinstance(value, (list, tuple)): return type(value)(map(prepared, value))
    if not isinstance(value, dict): return 'BN' if value in ('SyncBN', 'MMSyncBN') else value
    value = {k: prepared(v) for k, v in value.items() if not (k == 'init_cfg' and isinstance(v, dict) and v.get('type') == 'Pretrained')}
    for key in ('score_thr', 'conf_thr'):
        if key in value: value[key] = 0.
    if 'pos_fraction' in value and 'num' in value: value['num'] = EVERYTHING
    return value


def fewer_regions(model, regions):
    "The prepared config of a two-stage detector whose RPN hands over no more than `regions` boxes, so that slow second stages stay quick."
    for place in (model['train_cfg'].get('rpn_proposal'), model['test_cfg'].get('rpn')):
        if place is not None: place['max_per_img'] = regions
    return model


def model_config(config, row):
    "A whole config's model as a golden row wants it."
    model = prepared(config['model'].to_dict())
    if config.get('data_preprocessor'): model.setdefault('data_preprocessor', prepared(config['data_preprocessor'].to_dict()))
    if 'sampled' in row: model['train_cfg']['rcnn']['sampler']['num'] = row['sampled']          # for samplers that leave nothing to chance
    for augment in model['data_preprocessor'].get('batch_augments') or []:
        if 'fixed_pad' in row: augment['size'] = (row['fixed_pad'],) * 2                        # 1024 would be forty times the work
    return fewer_regions(model, row['regions']) if 'regions' in row else model


def inputs_module(folder=FOLDER):
    "inputs.py of the facts folder."
    spec = importlib.util.spec_from_file_location('parity_inputs', folder / 'inputs.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def proposals(row, i, gt_bboxes):
    "Boxes and scores for the i-th picture of a row: random ones, and each object's box moved a little."
    H, W = row['size']
    r = np.random.RandomState(1000 + 2 * row['batch_seed'] + i)
    n = row['proposals']
    xy, wh = r.uniform(0, .7, (n, 2)), r.uniform(.1, .6, (n, 2))
    boxes = np.concatenate([xy, np.minimum(xy + wh, 1)], 1) * [W, H, W, H]
    near = gt_bboxes.numpy().repeat(3, 0)
    boxes = np.concatenate([boxes, near + r.uniform(-6, 6, near.shape)])
    return dict(bboxes=torch.from_numpy(boxes.astype('float32')), scores=torch.from_numpy(r.uniform(0, 1, len(boxes)).astype('float32')))


def batch_of(row, inputs, DetDataSample, InstanceData, BitmapMasks):
    "Two pictures with boxes, labels and masks, as a loader would give them; the classes are MMDetection's or ours."
    H, W = row['size']
    data = dict(inputs=[], data_samples=[])
    for i, p in enumerate(inputs.pictures(2, H, W, gts=row['gts'], classes=row.get('classes', 3), seed=row['batch_seed'])):
        sample = DetDataSample(metainfo=dict(img_shape=(H, W), ori_shape=(H, W), scale_factor=(1., 1.)))
        sample.gt_instances = InstanceData(bboxes=p['bboxes'], labels=p['labels'], masks=BitmapMasks(p['masks'].numpy(), H, W))
        sample.ignored_instances = InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long))
        if 'proposals' in row: sample.proposals = InstanceData(**proposals(row, i, p['bboxes']))
        data['inputs'].append(p['image']); data['data_samples'].append(sample)
    return data
