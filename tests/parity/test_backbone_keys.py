"State-dict keys, shapes and their order: those of MMDetection 3.3 for the backbones of its own configs."
import gzip
import json
import os
from functools import lru_cache
from pathlib import Path

import pytest
import torch

from learndet.core.registry import MODELS
from learndet.models.backbones.c4 import ResLayer

ROOT = Path(__file__).parents[2]
PARITY = Path(os.environ.get('LEARNDET_PARITY', ROOT.parent / 'shared' / 'parity'))
pytestmark = pytest.mark.skipif(not (PARITY / 'zoo.jsonl.gz').is_file(), reason=f'the key lists of MMDetection (zoo.jsonl.gz) are not '
                                'there; LEARNDET_PARITY names their folder')

DCN, DCNV2 = dict(type='DCN', deform_groups=1, fallback_on_stride=False), dict(type='DCNv2', deform_groups=1, fallback_on_stride=False)
C3_C5, C4_C5 = (False, True, True, True), (False, False, True, True)
GN = dict(type='GN', num_groups=32, requires_grad=True)

def context(ratio): return dict(cfg=dict(type='ContextBlock', ratio=ratio), stages=C3_C5, position='after_conv3')
def attention(kind):
    cfg = dict(type='GeneralizedAttention', spatial_range=-1, num_heads=8, attention_type=kind, kv_stride=2)
    return dict(cfg=cfg, stages=C4_C5, position='after_conv2')

TABLE = [   # backbone, config
    (dict(type='ResNet', depth=18), 'atss/atss_r18_fpn_8xb8-amp-lsj-200e_coco.py'),
    (dict(type='ResNet', depth=34), 'ld/ld_r34-gflv1-r101_fpn_1x_coco.py'),
    (dict(type='ResNet', depth=50, style='caffe'), 'autoassign/autoassign_r50-caffe_fpn_1x_coco.py'),
    (dict(type='ResNet', depth=101), 'atss/atss_r101_fpn_1x_coco.py'),
    (dict(type='ResNet', depth=50, num_stages=3, strides=(1, 2, 2), dilations=(1, 1, 1), out_indices=(2,)), 'faster_rcnn/faster-rcnn_r50-caffe-c4_ms-1x_coco.py'),
    (dict(type='ResNet', depth=50, strides=(1, 2, 2, 1), dilations=(1, 1, 1, 2), out_indices=(3,)), 'faster_rcnn/faster-rcnn_r50-caffe-dc5_1x_coco.py'),
    (dict(type='ResNet', depth=50, norm_cfg=dict(type='SyncBN')), 'objects365/faster-rcnn_r50-syncbn_fpn_1350k_objects365v1.py'),
    (dict(type='ResNet', depth=50, norm_cfg=GN), 'scratch/faster-rcnn_r50-scratch_fpn_gn-all_6x_coco.py'),
    (dict(type='ResNet', depth=50, conv_cfg=dict(type='ConvWS'), norm_cfg=GN), 'gn+ws/faster-rcnn_r50_fpn_gn-ws-all_1x_coco.py'),
    (dict(type='ResNet', depth=50, dcn=dict(DCNV2, deform_groups=4), stage_with_dcn=C3_C5), 'dcnv2/faster-rcnn_r50-mdconv-group4-c3-c5_fpn_1x_coco.py'),
    (dict(type='ResNet', depth=101, dcn=dict(type='DCNv2', deformable_groups=1, fallback_on_stride=False), stage_with_dcn=C3_C5),
     'tood/tood_r101-dconv-c3-c5_fpn_ms-2x_coco.py'),
    (dict(type='ResNet', depth=50, plugins=[context(1 / 16)]), 'gcnet/mask-rcnn_r50-gcb-r16-c3-c5_fpn_1x_coco.py'),
    (dict(type='ResNet', depth=50, plugins=[attention('1111')], dcn=DCN, stage_with_dcn=C3_C5),
     'empirical_attention/faster-rcnn_r50-attn1111-dcn_fpn_1x_coco.py'),
    (dict(type='ResNet', depth=50, plugins=[attention('0010')]), 'empirical_attention/faster-rcnn_r50-attn0010_fpn_1x_coco.py'),
    (dict(type='ResNeXt', depth=101, groups=64, base_width=4), 'cascade_rcnn/cascade-mask-rcnn_x101-64x4d_fpn_1x_coco.py'),
    (dict(type='ResNeXt', depth=101, groups=32, base_width=8), 'cascade_rcnn/cascade-mask-rcnn_x101-32x8d_fpn_ms-3x_coco.py'),
    (dict(type='ResNeXt', depth=101, groups=32, base_width=4, dcn=DCN, stage_with_dcn=C3_C5, plugins=[context(1 / 4)], norm_cfg=dict(type='SyncBN')),
     'gcnet/cascade-mask-rcnn_x101-32x4d-syncbn-dconv-c3-c5-r4-gcb-c3-c5_fpn_1x_coco.py'),
    *[(dict(type='RegNet', arch=f'regnetx_{arch}'), f'regnet/{config}_coco.py') for arch, config in {
        '400mf': 'cascade-mask-rcnn_regnetx-400MF_fpn_ms-3x', '800mf': 'cascade-mask-rcnn_regnetx-800MF_fpn_ms-3x',
        '1.6gf': 'cascade-mask-rcnn_regnetx-1.6GF_fpn_ms-3x', '3.2gf': 'cascade-mask-rcnn_regnetx-3.2GF_fpn_ms-3x',
        '4.0gf': 'cascade-mask-rcnn_regnetx-4GF_fpn_ms-3x', '6.4gf': 'mask-rcnn_regnetx-6.4GF_fpn_1x',
        '8.0gf': 'mask-rcnn_regnetx-8GF_fpn_1x', '12gf': 'mask-rcnn_regnetx-12GF_fpn_1x'}.items()],
    (dict(type='RegNet', arch='regnetx_3.2gf', dcn=DCNV2, stage_with_dcn=C3_C5), 'regnet/mask-rcnn_regnetx-3.2GF-mdconv-c3-c5_fpn_1x_coco.py'),
    (dict(type='Res2Net', depth=101, scales=4, base_width=26), 'res2net/cascade-mask-rcnn_res2net-101_fpn_20e_coco.py'),
    (dict(type='Res2Net', depth=101, dcn=DCNV2, stage_with_dcn=C3_C5), 'vfnet/vfnet_res2net101-mdconv-c3-c5_fpn_ms-2x_coco.py'),
    (dict(type='ResNeSt', depth=50, stem_channels=64, norm_cfg=dict(type='SyncBN')), 'resnest/cascade-mask-rcnn_s50_fpn_syncbn-backbone+head_ms-1x_coco.py'),
    (dict(type='ResNeSt', depth=101, stem_channels=128), 'resnest/cascade-mask-rcnn_s101_fpn_syncbn-backbone+head_ms-1x_coco.py'),
    (dict(type='MobileNetV2', out_indices=(4, 7)), 'ssd/ssdlite_mobilenetv2-scratch_8xb24-600e_coco.py'),
    (dict(type='MobileNetV2', out_indices=(2, 4, 6), act_cfg=dict(type='LeakyReLU', negative_slope=.1)), 'yolo/yolov3_mobilenetv2_8xb24-320-300e_coco.py'),
    (dict(type='EfficientNet', arch='b3', out_indices=(3, 4, 5), drop_path_rate=.2), 'efficientnet/retinanet_effb3_fpn_8xb4-crop896-1x_coco.py'),
]

@lru_cache(maxsize=None)
def published():
    "config -> ordered [[key, '64x3x7x7'], ...]"
    read = lambda name: map(json.loads, gzip.open(PARITY / name, 'rt'))
    keys = {row['sha256_ordered']: row['keys'] for row in read('keys.jsonl.gz')}
    return {row['config']: keys[row['sha256_ordered']] for row in read('zoo.jsonl.gz') if row['status'] == 'ok'}

def theirs(config, prefix): return [(k[len(prefix):], shape) for k, shape in published()[config] if k.startswith(prefix)]
def ours(model): return [(k, 'x'.join(map(str, v.shape))) for k, v in model.state_dict().items()]

@pytest.mark.parametrize('backbone, config', TABLE, ids=lambda v: v if isinstance(v, str) else v['type'])
def test_backbone_keys(backbone, config):
    with torch.device('meta'): model = MODELS.build(backbone)
    assert ours(model) == theirs(config, 'backbone.')

def test_shared_head_keys():
    with torch.device('meta'): model = ResLayer(50, style='caffe')
    assert ours(model) == theirs('faster_rcnn/faster-rcnn_r50-caffe-c4_ms-1x_coco.py', 'roi_head.shared_head.')

OURS = {b['type'] for b, _ in TABLE}

def test_every_config_of_the_zoo():
    "All configs whose backbone is one of these, read from MMDetection's own files."
    where = os.environ.get('LEARNDET_MMDET')
    if not where: pytest.skip("MMDetection's config files are not there; LEARNDET_MMDET names the folder it is installed in")
    from learndet.engine.config import Config
    built, wrong, seen = {}, [], 0
    rows = [json.loads(line) for line in gzip.open(PARITY / 'zoo.jsonl.gz', 'rt')]
    for row in rows:
        if row['status'] != 'ok' or row['backbone'] not in OURS: continue
        expected = theirs(row['config'], 'backbone.')
        backbone = Config.fromfile(Path(where) / 'mmdet' / '.mim' / 'configs' / row['config'])['model'].get('backbone')
        if not expected or backbone is None: continue                                # detectors inside trackers and teachers
        backbone = json.loads(json.dumps({k: v for k, v in backbone.items() if k != 'init_cfg'}, default=str))
        name = json.dumps(backbone, sort_keys=True)
        if name not in built:
            with torch.device('meta'): built[name] = ours(MODELS.build(backbone))
        seen += 1
        if built[name] != expected: wrong.append(row['config'])
    assert not wrong and seen > 500, (seen, wrong)
