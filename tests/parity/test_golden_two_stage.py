"""MMDetection 3.3's own numbers: state-dict keys in their order, losses to 1e-4, and predictions, of two-stage detectors.

The facts lie beside the repository, in ../shared/parity, or where LEARNDET_PARITY says; its README tells how they were made. Weights
and pictures come from a seed there. Stored losses have six decimals, so small ones are compared to half of the last.
"""
import gzip
import hashlib
import importlib.util
import json
import os
from pathlib import Path

import pytest
import torch

from learndet.data.preprocessor import NORM_PRESETS, DetDataPreprocessor
from learndet.models.backbones.c4 import ResLayer
from learndet.models.backbones.resnet import ResNet
from learndet.models.dense_heads.rpn_head import RPNHead
from learndet.models.detectors.two_stage import FasterRCNN, MaskRCNN
from learndet.models.roi_heads.bbox_head import BBoxHead, Shared4Conv1FCBBoxHead
from learndet.models.roi_heads.cascade_roi_head import CascadeRoIHead
from learndet.models.roi_heads.mask_head import FCNMaskHead
from learndet.models.roi_heads.roi_align import RoIAlign
from learndet.models.roi_heads.roi_extractor import SingleRoIExtractor
from learndet.models.roi_heads.standard_roi_head import StandardRoIHead
from learndet.structures.instance_data import DetDataSample, InstanceData
from learndet.structures.masks import BitmapMasks
from learndet.task_modules.losses.iou_losses import GIoULoss
from learndet.task_modules.losses.l1 import L1Loss
from learndet.task_modules.prior_generators.anchor_generator import AnchorGenerator
from learndet.zoo.cascade_rcnn import cascade_rcnn
from learndet.zoo.fast_rcnn import fast_rcnn, fpn_roi_head
from learndet.zoo.faster_rcnn import faster_rcnn
from learndet.zoo.mask_rcnn import mask_rcnn
from learndet.zoo.rpn import rpn

PARITY = Path(os.environ.get('LEARNDET_PARITY') or Path(__file__).parents[3] / 'shared' / 'parity')
pytestmark = pytest.mark.skipif(not (PARITY / 'golden.jsonl').is_file(), reason=f'no facts of MMDetection: {PARITY.name} is not beside the repository')
MOST_POSITIVE = 64              # regions of an image that may be positive here; more than there are, and less than all


def giou():
    model = faster_rcnn()
    model.roi_head = fpn_roi_head(loss_bbox=GIoULoss(loss_weight=10.), reg_decoded_bbox=True)
    return model


def c4(mask_head=None):
    "ResNet's last stage as shared head; anchors of five sizes on one map."
    backbone = ResNet(50, num_stages=3, strides=(1, 2, 2), dilations=(1, 1, 1), out_indices=(2,), style='caffe')
    rpn_head = RPNHead(1024, feat_channels=1024, anchor_generator=AnchorGenerator([16], ratios=[.5, 1., 2.], scales=[2, 4, 8, 16, 32]))
    roi_head = StandardRoIHead(SingleRoIExtractor(RoIAlign(14), 1024, [16]), BBoxHead(with_avg_pool=True, in_channels=2048), shared_head=ResLayer(50, stage=3, style='caffe'),
                               mask_head=mask_head, mask_size=14)
    return (FasterRCNN if mask_head is None else MaskRCNN)(backbone, None, rpn_head, roi_head)


def group_norm():
    gn = dict(type='GN', num_groups=32)
    model = mask_rcnn(backbone=ResNet(50, norm_cfg=gn))
    model.neck = type(model.neck)(model.backbone.out_channels, 256, num_outs=5, norm_cfg=gn)
    model.roi_head.bbox_head = Shared4Conv1FCBBoxHead(norm_cfg=gn, loss_bbox=L1Loss())
    model.roi_head.mask_head = FCNMaskHead(norm_cfg=gn)
    return model


MODELS = {
    'rpn/rpn_r50_fpn_1x_coco.py': rpn,
    'fast_rcnn/fast-rcnn_r50_fpn_1x_coco.py': fast_rcnn,
    'faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py': faster_rcnn,
    'faster_rcnn/faster-rcnn_r50_fpn_giou_1x_coco.py': giou,
    'faster_rcnn/faster-rcnn_r50-caffe_fpn_1x_coco.py': lambda: faster_rcnn(backbone=ResNet(50, style='caffe')),
    'faster_rcnn/faster-rcnn_r50-caffe-c4_ms-1x_coco.py': c4,
    'mask_rcnn/mask-rcnn_r50-caffe-c4_1x_coco.py': lambda: c4(FCNMaskHead(num_convs=0, in_channels=2048)),
    'mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py': mask_rcnn,
    'gn/mask-rcnn_r50_fpn_gn-all_2x_coco.py': group_norm,
    'cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco.py': cascade_rcnn,
    'cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco.py': lambda: cascade_rcnn(with_mask=True)}
NUMBERS = [name for name in MODELS if not name.startswith('fast_rcnn') and 'c4' not in name]      # those with a golden row


def rows(name):
    opener = gzip.open if name.endswith('.gz') else open
    with opener(PARITY / name, 'rt') as lines: return [json.loads(line) for line in lines]


@pytest.fixture(scope='module')
def facts():
    spec = importlib.util.spec_from_file_location('parity_inputs', PARITY / 'inputs.py')
    inputs = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(inputs)
    return inputs, {row['config']: row for row in rows('golden.jsonl')}, {row['config']: row for row in rows('zoo.jsonl.gz')}


def key_lines(model): return [f"{key}:{'x'.join(map(str, v.shape))}" for key, v in model.state_dict().items()]


@pytest.mark.parametrize('config', MODELS)
def test_the_state_dict_is_mmdetections(config, facts):
    "The same keys with the same shapes in the same order."
    row, mine = facts[2][config], key_lines(MODELS[config]())
    if hashlib.sha256('\n'.join(mine).encode()).hexdigest() != row['sha256_ordered']:
        theirs = next(r['keys'] for r in rows('keys.jsonl.gz') if r['sha256_ordered'] == row['sha256_ordered'])
        assert mine == [f'{key}:{shape}' for key, shape in theirs]


def unsampled(model):
    "Nothing is left to chance: samplers take all there is, and every score counts."
    for module in model.modules():
        if isinstance(module, (StandardRoIHead, CascadeRoIHead)): module.postprocess.score_thr = 0.
        samplers = getattr(module, 'sampler', None)
        for sampler in samplers if isinstance(samplers, list) else [samplers] if samplers is not None else []:
            sampler.num = 1_000_000
            if not isinstance(module, RPNHead): sampler.pos_fraction = MOST_POSITIVE / sampler.num      # so few regions get a mask
    return model


def batch_of(inputs, row, preprocessor):
    (H, W), samples = row['size'], []
    pictures = inputs.pictures(2, H, W, gts=row['gts'], classes=3, seed=row['batch_seed'])
    for i, p in enumerate(pictures):
        samples.append(DetDataSample(metainfo=dict(img_id=i, img_shape=(H, W), ori_shape=(H, W), scale_factor=(1., 1.))))
        samples[-1].gt_instances = InstanceData(bboxes=p['bboxes'], labels=p['labels'], masks=BitmapMasks(p['masks']))
    return preprocessor(dict(inputs=[p['image'] for p in pictures], data_samples=samples))


@pytest.fixture(params=NUMBERS)
def ready(request, facts):
    "A model with the golden weights, its batch, and its row."
    inputs, golden, _ = facts
    row = golden[request.param]
    model = unsampled(inputs.fill(MODELS[request.param](), row['weights_seed']))
    norm = NORM_PRESETS['caffe' if 'caffe' in request.param or 'gn-all' in request.param else 'torchvision']
    return model, lambda: batch_of(inputs, row, DetDataPreprocessor(**norm, pad_size_divisor=32, pad_mask=True)), row


def check_predictions(found, golden):
    "Sorted scores, and every golden detection among ours, with its box to two hundredths of a pixel and its mask's area to one percent."
    assert len(found) == golden['n']
    scores, boxes, labels = (torch.tensor(golden[name]) for name in ('scores', 'bboxes', 'labels'))
    assert (found.scores.sort(descending=True).values[:len(scores)] - scores).abs().max() < 1e-4
    distance = (boxes[:, None] - found.bboxes).abs().amax(-1).masked_fill(labels[:, None] != found.labels, torch.inf)
    nearest = distance.min(1)
    assert nearest.values.max() < .02
    for area, j in zip(golden.get('mask_areas', ()), nearest.indices.tolist()):
        assert abs(int(found.masks[j].sum()) - area) <= max(2, .01 * area)


def test_numbers_are_mmdetections(ready):
    model, batch, row = ready
    with torch.no_grad():
        found = model.eval()(**batch(), mode='predict')
        losses = model.train()(**batch(), mode='loss')
    for sample, golden in zip(found, row['preds']): check_predictions(sample.pred_instances, golden)
    assert set(losses) == set(row['loss'])
    for name, value in row['loss'].items():
        value, decimals = (sum(value), 5) if isinstance(value, list) else (value, 1)      # a loss of five levels was rounded five times
        assert losses[name].item() == pytest.approx(value, rel=1e-4, abs=.5e-6 * decimals), name
