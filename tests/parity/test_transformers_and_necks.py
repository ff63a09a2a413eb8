"""Swin, HRNet, PVT and the necks of stage 2 beside MMDetection 3.3: keys of its configs, and numbers of its own modules.

The key lists come from zoo.jsonl.gz (LEARNDET_PARITY names its folder), the numbers from MMDetection itself, where it is
installed (LEARNDET_MMDET). Deliberate differences are at the end.
"""
import gzip
import hashlib
import importlib.util
import json
import os
import sys
from functools import lru_cache
from pathlib import Path

import pytest
import torch

from learndet.core.registry import MODELS
from learndet.models.backbones.hrnet import HRNet, hrnet_extra
from learndet.models.backbones.pvt import PyramidVisionTransformer, PyramidVisionTransformerV2, convert_pvt
from learndet.models.backbones.swin import SwinTransformer, convert_swin
from learndet.models.dense_heads.retina_sepbn_head import RetinaSepBNHead
from learndet.models.necks.fpg import FPG
from learndet.models.necks.fpn_carafe import FPN_CARAFE
from learndet.models.necks.hrfpn import HRFPN
from learndet.models.necks.nas_fpn import NASFPN
from learndet.models.necks.pafpn import PAFPN
from mmdet_reference import available, load

torch.set_num_threads(1)
ROOT = Path(__file__).parents[2]
PARITY = Path(os.environ.get('LEARNDET_PARITY', ROOT.parent / 'shared' / 'parity'))
needs_keys = pytest.mark.skipif(not (PARITY / 'zoo.jsonl.gz').is_file(), reason='the key lists of MMDetection (zoo.jsonl.gz) are not '
                                'there; LEARNDET_PARITY names their folder')
needs_mmdet = pytest.mark.skipif(not available(), reason='MMDetection 3.3 is not installed (LEARNDET_MMDET names its folder)')

BN, MAPS = dict(type='BN'), [256, 512, 1024, 2048]
FIRST = dict(inplace=False, order=('act', 'conv', 'norm'))
FPG_ARGS = dict(
    num_outs=5, stack_times=9, paths=['bu'] * 9, same_up_trans=dict(type='conv', kernel_size=3, stride=2, padding=1, norm_cfg=BN, **FIRST),
    across_lateral_trans=dict(type='conv', kernel_size=1, norm_cfg=BN, **FIRST), across_up_trans=None,
    across_down_trans=dict(type='interpolation_conv', mode='nearest', kernel_size=3, norm_cfg=BN, **FIRST), same_down_trans=None,
    across_skip_trans=dict(type='conv', kernel_size=1, norm_cfg=BN, **FIRST), output_trans=dict(type='last_conv', kernel_size=3, **FIRST),
    norm_cfg=BN, skip_inds=[(0, 1, 2, 3), (0, 1, 2), (0, 1), (0,), ()])
CARAFE = dict(type='carafe', up_kernel=5, up_group=1, encoder_kernel=3, encoder_dilation=1, compressed_channels=64)

TABLE = [    # part, prefix of its keys, config
    (dict(type='SwinTransformer', out_indices=(1, 2, 3)), 'backbone.', 'swin/retinanet_swin-t-p4-w7_fpn_1x_coco.py'),
    (dict(type='SwinTransformer', embed_dims=192, depths=[2, 2, 18, 2], num_heads=[6, 12, 24, 48], window_size=12, out_indices=(1, 2, 3)), 'backbone.',
     'dyhead/atss_swin-l-p4-w12_fpn_dyhead_ms-2x_coco.py'),
    (dict(type='HRNet', extra=hrnet_extra(18)), 'backbone.', 'hrnet/faster-rcnn_hrnetv2p-w18-1x_coco.py'),
    (dict(type='HRNet', extra=hrnet_extra(32)), 'backbone.', 'hrnet/faster-rcnn_hrnetv2p-w32-1x_coco.py'),
    (dict(type='PyramidVisionTransformer', num_layers=[2, 2, 2, 2]), 'backbone.', 'pvt/retinanet_pvt-t_fpn_1x_coco.py'),
    (dict(type='PyramidVisionTransformerV2', embed_dims=32, num_layers=[2, 2, 2, 2]), 'backbone.', 'pvt/retinanet_pvtv2-b0_fpn_1x_coco.py'),
    (dict(type='HRFPN', in_channels=[32, 64, 128, 256], out_channels=256), 'neck.', 'hrnet/faster-rcnn_hrnetv2p-w32-1x_coco.py'),
    (dict(type='PAFPN', in_channels=MAPS, out_channels=256, num_outs=5), 'neck.', 'pafpn/faster-rcnn_r50_pafpn_1x_coco.py'),
    (dict(type='NASFPN', in_channels=MAPS, out_channels=256, num_outs=5, stack_times=7, start_level=1, norm_cfg=BN), 'neck.',
     'nas_fpn/retinanet_r50_nasfpn_crop640-50e_coco.py'),
    (dict(type='FPG', in_channels=MAPS, out_channels=256, inter_channels=256, **FPG_ARGS), 'neck.', 'fpg/faster-rcnn_r50_fpg_crop640-50e_coco.py'),
    (dict(type='FPN_CARAFE', in_channels=MAPS, out_channels=256, num_outs=5, upsample_cfg=CARAFE), 'neck.', 'carafe/faster-rcnn_r50_fpn-carafe_1x_coco.py'),
    (dict(type='RetinaSepBNHead', num_classes=80, num_ins=5, in_channels=256, norm_cfg=BN), 'bbox_head.', 'nas_fpn/retinanet_r50_nasfpn_crop640-50e_coco.py'),
]

@lru_cache(maxsize=None)
def published():
    "config -> ordered [[key, '64x3x7x7'], ...]"
    read = lambda name: map(json.loads, gzip.open(PARITY / name, 'rt'))
    keys = {row['sha256_ordered']: row['keys'] for row in read('keys.jsonl.gz')}
    return {row['config']: (keys[row['sha256_ordered']], row) for row in read('zoo.jsonl.gz') if row['status'] == 'ok'}

def theirs(config, prefix): return [(k[len(prefix):], shape) for k, shape in published()[config][0] if k.startswith(prefix)]
def ours(model): return [(k, 'x'.join(map(str, v.shape))) for k, v in model.state_dict().items()]

@needs_keys
@pytest.mark.parametrize('part, prefix, config', TABLE, ids=lambda v: v['type'] if isinstance(v, dict) else v.strip('.'))
def test_keys(part, prefix, config):
    with torch.device('cpu' if 'head' in prefix else 'meta'): model = MODELS.build(part)         # anchors need numbers
    assert ours(model) == theirs(config, prefix)

OURS = {part['type'] for part, _, _ in TABLE}

@needs_keys
@pytest.mark.parametrize('where, prefix, at_least', [('backbone', 'backbone.', 80), ('neck', 'neck.', 25)])
def test_every_config_of_the_zoo(where, prefix, at_least):
    "All configs with one of these parts, read from MMDetection's own files."
    folder = os.environ.get('LEARNDET_MMDET')
    if not folder: pytest.skip("MMDetection's config files are not there; LEARNDET_MMDET names the folder it is installed in")
    from learndet.engine.config import Config
    built, wrong, seen = {}, [], 0
    for config, (_, row) in published().items():
        kinds = [row['backbone']] if where == 'backbone' else row['neck']
        if len(kinds) != 1 or kinds[0] not in OURS: continue
        part = Config.fromfile(Path(folder) / 'mmdet' / '.mim' / 'configs' / config)['model'].get(where)
        expected = theirs(config, prefix)
        if not expected or not isinstance(part, dict): continue                      # detectors inside trackers and teachers
        part = json.loads(json.dumps({k: v for k, v in part.items() if k != 'init_cfg'}, default=str))
        name = json.dumps(part, sort_keys=True)
        if name not in built:
            with torch.device('meta'): built[name] = ours(MODELS.build(part))
        seen += 1
        if built[name] != expected: wrong.append(config)
    assert not wrong and seen >= at_least, (seen, wrong)

@torch.no_grad()
def fill(model, seed=0):
    "Weights as a function of their names, norms near 1."
    params = dict(model.named_parameters())
    for key, v in model.state_dict().items():
        last = key.rsplit('.', 1)[-1]
        if key not in params and last not in ('running_mean', 'running_var'): continue
        g = torch.Generator().manual_seed(int(hashlib.sha256(f'{seed}:{key}'.encode()).hexdigest()[:8], 16))
        x = torch.randn(v.shape, generator=g)
        if last == 'running_var': x = 1 + .1 * x.abs()
        elif v.dim() <= 1 and last == 'weight': x = 1 + .1 * x
        elif v.dim() <= 1: x = .1 * x
        else: x = x * (.7 / max(1, v[0].numel()) ** .5)
        v.copy_(x)
    return model

def flat(out): return [t for x in out for t in flat(x)] if isinstance(out, (list, tuple)) else [out]

def run(model, inputs, mode):
    "Outputs, and gradients of a sum that looks at every number, by parameter."
    fill(model).train(mode == 'train')
    outs = flat(model(inputs if torch.is_tensor(inputs) else list(inputs)))
    sum((o * torch.linspace(-1, 1, o.numel()).view_as(o).cos()).sum() for o in outs).backward()
    return [o.detach() for o in outs], {k: p.grad for k, p in model.named_parameters() if p.grad is not None}

def same(mine, yours, inputs, mode='eval'):
    "Keys, outputs and gradients agree."
    assert ours(mine) == ours(yours)
    (a, a_grad), (b, b_grad) = run(mine, inputs, mode), run(yours, inputs, mode)
    for x, y in zip(a, b, strict=True): torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-5 * max(1., float(y.abs().max())))
    assert a_grad.keys() == b_grad.keys()
    for k in a_grad: torch.testing.assert_close(a_grad[k], b_grad[k], rtol=1e-3, atol=1e-4 * max(1., float(b_grad[k].abs().max())), msg=lambda m: f'{k}: {m}')

def picture(*size): torch.manual_seed(0); return torch.randn(2, 3, *size)
def maps(channels, size): torch.manual_seed(0); return [torch.randn(2, c, -(-size // 2 ** i), -(-size // 2 ** i)) for i, c in enumerate(channels)]

@pytest.fixture(scope='module')
def mmdet():
    "MMDetection, with MMCV's own merging cells, which need no compiled operators."
    load()
    import mmdet.models.necks.nas_fpn as nas
    file = Path(os.environ['LEARNDET_MMDET']) / 'mmcv' / 'ops' / 'merge_cells.py'
    spec = importlib.util.spec_from_file_location('mmcv.ops.its_merge_cells', file)
    cells = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(cells)
    nas.SumCell, nas.GlobalPoolingCell = cells.SumCell, cells.GlobalPoolingCell
    return sys.modules['mmdet'].models

@needs_mmdet
@pytest.mark.filterwarnings('ignore')
class TestNumbers:
    @pytest.mark.parametrize('mode', ['eval', 'train'])
    def test_hrnet(self, mmdet, mode):
        args = dict(extra=hrnet_extra(8, (1, 1, 2, 1)), norm_eval=False)
        same(HRNet(**args), mmdet.backbones.HRNet(**args), picture(64, 96), mode)

    @pytest.mark.parametrize('args', [dict(), dict(drop_path_rate=0., with_cp=True, patch_norm=False, qkv_bias=False, qk_scale=.3, out_indices=(1, 3))])
    @pytest.mark.parametrize('size', [(75, 96), (40, 33)])
    def test_swin(self, mmdet, args, size):
        args = dict(embed_dims=12, depths=(2, 3, 2, 2), num_heads=(1, 2, 3, 4), window_size=5, **args)
        same(SwinTransformer(**args), mmdet.backbones.SwinTransformer(**args), picture(*size))

    @pytest.mark.parametrize('args', [dict(), dict(qkv_bias=False, out_indices=(1, 3))])
    @pytest.mark.parametrize('cls', [PyramidVisionTransformer, PyramidVisionTransformerV2])
    def test_pvt(self, mmdet, cls, args):
        args = dict(embed_dims=8, num_layers=[1, 2, 1, 1], **args)
        same(cls(**args), getattr(mmdet.backbones, cls.__name__)(**args), picture(75, 96))

    @pytest.mark.parametrize('args', [dict(num_outs=5), dict(num_outs=4, start_level=1, add_extra_convs=True), dict(num_outs=5, add_extra_convs='on_lateral'), dict(
        num_outs=5, start_level=1, add_extra_convs='on_output', relu_before_extra_convs=True, norm_cfg=dict(type='GN', num_groups=2), act_cfg=dict(type='ReLU'), no_norm_on_lateral=True)])
    def test_pafpn(self, mmdet, args):
        same(PAFPN([4, 8, 12], 6, **args), mmdet.necks.PAFPN([4, 8, 12], 6, **args), maps([4, 8, 12], 25), 'train')

    @pytest.mark.parametrize('args', [dict(), dict(pooling_type='MAX', with_cp=True, stride=2, num_outs=3)])
    def test_hrfpn(self, mmdet, args):
        same(HRFPN([4, 8, 12], 6, **args), mmdet.necks.HRFPN([4, 8, 12], 6, **args), maps([4, 8, 12], 32), 'train')

    @pytest.mark.parametrize('size, mode', [(64, 'eval'), (64, 'train'), (50, 'eval')])
    def test_nas_fpn(self, mmdet, size, mode):
        args = dict(num_outs=5, stack_times=2, start_level=1, norm_cfg=BN)
        same(NASFPN([4, 8, 12, 16], 6, **args), mmdet.necks.NASFPN([4, 8, 12, 16], 6, **args), maps([4, 8, 12, 16], size), mode)

    @pytest.mark.parametrize('args', [dict(inter_channels=4), dict(add_extra_convs=True, start_level=1), dict(
        paths=['td', 'bu'] * 4 + ['td'], skip_inds=[()] * 5, same_down_trans=dict(type='interpolation_conv', norm_cfg=BN, **FIRST))])
    def test_fpg(self, mmdet, args):
        args = {**FPG_ARGS, **args}
        same(FPG([4, 8, 12], 6, **args), mmdet.necks.FPG([4, 8, 12], 6, **args), maps([4, 8, 12], 64), 'train')

    @pytest.mark.parametrize('args', [dict(num_outs=5), dict(num_outs=2, start_level=1, end_level=2, norm_cfg=BN, act_cfg=dict(type='ReLU'), order=('act', 'conv', 'norm'))])
    def test_fpn_carafe(self, mmdet, args):
        "With nearest neighbour; CARAFE itself is a compiled operator there, and compared with its formula in its chapter."
        args = dict(upsample_cfg=dict(type='nearest'), **args)
        same(FPN_CARAFE([4, 8, 12, 16], 6, **args), mmdet.necks.FPN_CARAFE([4, 8, 12, 16], 6, **args), maps([4, 8, 12, 16], 50), 'train')

    def test_retina_sepbn_head(self, mmdet):
        args = dict(num_classes=3, num_ins=5, in_channels=8, stacked_convs=2, feat_channels=6, norm_cfg=BN)
        from mmengine import ConfigDict
        reference = mmdet.dense_heads.RetinaSepBNHead(
            **args, anchor_generator=ConfigDict(type='AnchorGenerator', octave_base_scale=4, scales_per_octave=3, ratios=[.5, 1., 2.], strides=[8, 16, 32, 64, 128]),
            bbox_coder=ConfigDict(type='DeltaXYWHBBoxCoder'), loss_cls=ConfigDict(type='FocalLoss', use_sigmoid=True), loss_bbox=ConfigDict(type='L1Loss'))
        same(RetinaSepBNHead(**args), reference, maps([8] * 5, 32), 'train')

    def test_swin_weights(self, mmdet):
        from mmdet.models.backbones.swin import swin_converter
        theirs = {'layers.0.downsample.reduction.weight': (24, 48), 'layers.0.downsample.norm.weight': (48,), 'layers.1.blocks.0.attn.proj.bias': (3,),
                  'layers.1.blocks.0.mlp.fc2.bias': (3,), 'layers.0.blocks.1.mlp.fc1.weight': (3, 3), 'patch_embed.proj.weight': (3, 3), 'patch_embed.norm.bias': (3,),
                  'layers.0.blocks.0.attn.relative_position_bias_table': (9, 2), 'norm.weight': (3,), 'head.bias': (3,)}
        theirs = {k: torch.randn(shape) for k, shape in theirs.items()}
        converted, mine = swin_converter(theirs), convert_swin(theirs)
        assert [k.removeprefix('backbone.') for k in converted] == list(mine)
        assert all(torch.equal(v, mine[k.removeprefix('backbone.')]) for k, v in converted.items())

    @pytest.mark.parametrize('version', [1, 2])
    def test_pvt_weights(self, mmdet, version):
        from mmdet.models.backbones.pvt import pvt_convert
        shapes = {'pos_embed4': (1, 50, 3), 'pos_embed1': (1, 50, 3)} if version == 1 else {'norm1.weight': (3,), 'block1.0.mlp.dwconv.dwconv.bias': (3,)}
        shapes |= {'block2.1.attn.q.weight': (3, 3), 'block2.1.attn.kv.weight': (6, 3), 'block2.1.attn.sr.weight': (3,), 'block2.1.attn.norm.weight': (3,),
                   'block2.1.attn.proj.bias': (3,), 'block2.1.norm1.bias': (3,), 'block3.0.mlp.fc1.weight': (3, 3), 'block3.0.mlp.fc2.bias': (3,),
                   'patch_embed3.proj.bias': (3,), 'patch_embed3.norm.bias': (3,), 'head.weight': (3, 3), 'norm.bias': (3,)}
        theirs = {k: torch.randn(shape) for k, shape in shapes.items()}
        a, b = pvt_convert(theirs), convert_pvt(theirs)
        assert list(a) == list(b) and all(torch.equal(v, b[k]) for k, v in a.items())


def test_sizes_that_32_does_not_divide():
    "MMDetection's HRNet stretches by factors and fails on these; ours stretches to the size that is there."
    model, neck = HRNet(hrnet_extra(4, (1, 1, 1, 1))).eval(), HRFPN([4, 8, 16, 32], 4)
    assert [o.shape[2] for o in neck(model(torch.zeros(1, 3, 72, 72)))] == [18, 9, 4, 2, 1]

def test_fresh_swin_has_small_biases():
    "MMDetection leaves the tables of a Swin without a file at 0; the paper's code draws them."
    model = SwinTransformer(embed_dims=8, depths=(1, 1), num_heads=(1, 2), strides=(4, 2), out_indices=(0, 1))
    model.init_weights()
    assert .01 < model.stages[0].blocks[0].attn.w_msa.relative_position_bias_table.std() < .03
