"Backbones, layers and pictures of the parity test, the same for both libraries; weights follow the rule of ../shared/parity/inputs.py."
import hashlib
import importlib.util
import os
from pathlib import Path

import torch

PARITY = Path(os.environ.get('LEARNDET_PARITY', Path(__file__).parents[3] / 'shared' / 'parity'))
C3_C5, C4_C5 = (False, True, True, True), (False, False, True, True)
GN = dict(type='GN', num_groups=4)

def attention(kind, position='after_conv2'):
    return dict(cfg=dict(type='GeneralizedAttention', num_heads=4, attention_type=kind, kv_stride=2), stages=C4_C5, position=position)

CASES = dict(
    resnet18=dict(type='ResNet', depth=18, base_channels=8),
    resnet50_caffe=dict(type='ResNet', depth=50, base_channels=8, style='caffe'),
    resnet50_c4=dict(type='ResNet', depth=50, base_channels=8, num_stages=3, strides=(1, 2, 2), dilations=(1, 1, 1), out_indices=(2,)),
    resnet50_dc5=dict(type='ResNet', depth=50, base_channels=8, strides=(1, 2, 2, 1), dilations=(1, 1, 1, 2), out_indices=(1, 3)),
    resnet50_v1d=dict(type='ResNetV1d', depth=50, base_channels=8),
    resnet50_gn_ws=dict(type='ResNet', depth=50, base_channels=8, conv_cfg=dict(type='ConvWS'), norm_cfg=GN),
    resnet50_dcn=dict(type='ResNet', depth=50, base_channels=8, dcn=dict(type='DCN', deform_groups=1, fallback_on_stride=False), stage_with_dcn=C3_C5),
    resnet50_dcnv2=dict(type='ResNet', depth=50, base_channels=8, dcn=dict(type='DCNv2', deform_groups=2, fallback_on_stride=False), stage_with_dcn=C3_C5),
    resnet50_context=dict(type='ResNet', depth=50, base_channels=8, plugins=[
        dict(cfg=dict(type='ContextBlock', ratio=1 / 4, fusion_types=('channel_add', 'channel_mul')), stages=C3_C5, position='after_conv3'),
        dict(cfg=dict(type='ContextBlock', ratio=1 / 2, pooling_type='avg', postfix='_2'), position='after_conv1')]),
    **{f'resnet50_attention_{kind}': dict(type='ResNet', depth=50, base_channels=8, plugins=[attention(kind)])
       for kind in ('1111', '0010', '0001', '1000', '1101', '0011')},   # MMCV cannot do 0100 and 0110 on oblong maps
    resnext50=dict(type='ResNeXt', depth=50, base_channels=8, groups=4, base_width=2),
    resnext50_dcn=dict(type='ResNeXt', depth=50, base_channels=8, groups=4, base_width=2, dcn=dict(type='DCN', deform_groups=1), stage_with_dcn=C4_C5),
    regnet_800mf=dict(type='RegNet', arch='regnetx_800mf'),
    regnet_400mf=dict(type='RegNet', arch='regnetx_400mf', out_indices=(1, 3)),
    res2net50=dict(type='Res2Net', depth=50, base_channels=8, base_width=4),
    resnest50=dict(type='ResNeSt', depth=50, base_channels=8, stem_channels=8),
    resnest50_radix4=dict(type='ResNeSt', depth=50, base_channels=8, stem_channels=8, radix=4, groups=2, base_width=8, avg_down_stride=False),
    mobilenet_v2=dict(type='MobileNetV2', widen_factor=.5, out_indices=(1, 2, 4, 7)),
    mobilenet_v2_leaky=dict(type='MobileNetV2', widen_factor=.5, act_cfg=dict(type='LeakyReLU', negative_slope=.1), out_indices=(2, 6)),
    efficientnet_b0=dict(type='EfficientNet', arch='b0', out_indices=(2, 4, 6)),
    efficientnet_b3=dict(type='EfficientNet', arch='b3', out_indices=(3,)),
)

def fill(model):
    "The weights of the golden runs."
    spec = importlib.util.spec_from_file_location('parity_inputs', PARITY / 'inputs.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.fill(model, seed=0)

def short(v): return float(f'{v:.7g}')

def summary(t):
    "What is stored of a tensor: shape, mean size, and eight of its numbers."
    flat = t.detach().double().flatten()
    return dict(shape=list(t.shape), size=short(flat.abs().mean().item()),
                values=[short(v) for v in flat[torch.linspace(0, len(flat) - 1, 8).long()].tolist()])

def facts(model):
    "Maps of a picture in evaluation mode and gradients of picture and parameters, as summaries; float64: fifty layers of rounding look like a fault."
    fill(model).double().eval()
    x = torch.randn(2, 3, 61, 75, generator=torch.Generator().manual_seed(1)).double().requires_grad_()
    maps = model(x)
    sum((m * torch.linspace(-1, 1, m.numel(), dtype=m.dtype).view_as(m)).mean() for m in maps).backward()
    grads = {k: p.grad for k, p in model.named_parameters() if p.grad is not None}
    picked = sorted(grads, key=lambda k: hashlib.sha256(k.encode()).hexdigest())[:6]
    return dict(maps=[summary(m) for m in maps], grad=summary(x.grad), grads={k: summary(grads[k]) for k in picked})
