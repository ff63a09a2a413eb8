"Backbones in training: gradients, frozen parts, first weights, checkpointing, and configs as MMDetection writes them."
import copy

import pytest
import torch
from torch import nn

from learndet.core.registry import MODELS
from learndet.models.backbones.c4 import ResLayer
from learndet.models.backbones.resnet import ResNet

DCN = dict(dcn=dict(type='DCNv2', deform_groups=1, fallback_on_stride=False), stage_with_dcn=(False, True, True, True))
CONTEXT = dict(cfg=dict(type='ContextBlock', ratio=1 / 4), position='after_conv3')
TINY = [dict(type='ResNet', depth=50, base_channels=8, **DCN, plugins=[CONTEXT]), dict(type='ResNeXt', depth=50, base_channels=8, groups=2, base_width=8),
        dict(type='RegNet', arch='regnetx_400mf'), dict(type='Res2Net', depth=50, base_channels=8, base_width=4),
        dict(type='ResNeSt', depth=50, base_channels=8, stem_channels=8)]
SMALL = [*TINY, dict(type='MobileNetV2', widen_factor=.35), dict(type='EfficientNet', arch='b0', out_indices=(3, 5))]

def build(cfg): torch.manual_seed(0); return MODELS.build(cfg)

@pytest.mark.parametrize('cfg', SMALL, ids=lambda c: c['type'])
def test_every_parameter_learns_from_the_maps(cfg):
    before, model = copy.deepcopy(cfg), build(cfg)
    assert cfg == before, 'the config was changed'
    model.init_weights()
    outs = model.train()(torch.randn(2, 3, 64, 64))
    assert [o.shape[1] for o in outs] == model.out_channels
    sum(o.square().mean() for o in outs).backward()
    for name, p in model.named_parameters():
        if cfg['type'] == 'MobileNetV2' and name.startswith('conv2'): assert p.grad is not None
        assert p.grad is not None and p.grad.isfinite().all(), name

@pytest.mark.parametrize('cfg', SMALL, ids=lambda c: c['type'])
def test_no_picture_at_all(cfg):
    model = build(cfg).eval()
    assert [o.shape[0] for o in model(torch.zeros(0, 3, 32, 32))] == [0] * len(model.out_channels)

@pytest.mark.parametrize('cfg', TINY, ids=lambda c: c['type'])
def test_frozen_stages_stand_still(cfg):
    model = build(dict(cfg, frozen_stages=1, norm_eval=False)).train()
    kept = {k: v.clone() for k, v in model.state_dict().items() if k.startswith(('conv1', 'bn1', 'stem', 'layer1'))}
    sum(o.mean() for o in model(torch.randn(2, 3, 64, 64))).backward()
    torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.).step()
    assert kept and all(torch.equal(model.state_dict()[k], v) for k, v in kept.items())
    assert not any(p.grad is not None for k, p in model.named_parameters() if k in kept)

@pytest.mark.parametrize('cfg', TINY, ids=lambda c: c['type'])
def test_checkpointing_changes_nothing(cfg):
    plain, saving = build(cfg), build(dict(cfg, with_cp=True))
    saving.load_state_dict(plain.state_dict())
    x = torch.randn(2, 3, 64, 64, requires_grad=True)
    grads = [torch.autograd.grad(sum(o.square().mean() for o in m.eval()(x)), [x, *m.parameters()]) for m in (plain, saving)]
    for a, b in zip(*grads): torch.testing.assert_close(a, b)

@pytest.mark.parametrize('cfg', TINY, ids=lambda c: c['type'])
def test_blocks_start_as_their_shortcut(cfg):
    model = build(cfg)
    model.init_weights()
    last = [m.norm3.weight for m in model.modules() if hasattr(m, 'norm3_name')]
    assert last and not any(w.any() for w in last)
    assert not any(p.any() for k, p in model.named_parameters() if 'conv_offset' in k or 'channel_add_conv.3' in k)

@pytest.mark.parametrize('kind', ['BN', 'SyncBN', 'MMSyncBN', 'GN'])
def test_norms_of_a_config(kind):
    norm = dict(type=kind, requires_grad=False, **(dict(num_groups=4) if kind == 'GN' else {}))
    model = build(dict(type='ResNet', depth=18, base_channels=8, norm_cfg=norm))
    norms = [m for m in model.modules() if isinstance(m, (nn.modules.batchnorm._BatchNorm, nn.GroupNorm))]
    assert len(norms) == 20 and not any(p.requires_grad for m in norms for p in m.parameters())
    model.train()(torch.randn(2, 3, 32, 32))

def test_fallback_on_stride_keeps_ordinary_convolutions_where_the_map_is_halved():
    model = build(dict(type='ResNet', depth=50, base_channels=8, dcn=dict(type='DCN', fallback_on_stride=True), stage_with_dcn=(True,) * 4))
    kinds = [[type(block.conv2).__name__ for block in getattr(model, f'layer{i}')] for i in (1, 2, 3, 4)]
    assert kinds[0] == ['DeformConv2dPack'] * 3 and all(k[0] == 'Conv2d' and set(k[1:]) == {'DeformConv2dPack'} for k in kinds[1:])

def test_both_halves_of_a_network_are_the_whole():
    torch.manual_seed(0)
    whole, back = ResNet(18).eval(), ResLayer(18).eval()
    front = ResNet(18, num_stages=3, strides=(1, 2, 2), dilations=(1, 1, 1), out_indices=(2,)).eval()
    for part in (front, back): part.load_state_dict({k: v for k, v in whole.state_dict().items() if k in part.state_dict()})
    x = torch.randn(1, 3, 64, 64)
    assert torch.equal(back(*front(x)), whole(x)[-1])

@pytest.mark.parametrize('change, words', [
    (dict(type='ResNeXt', depth=34), 'a ResNeXt has depth 50, 101, 152, got 34'), (dict(type='RegNet', arch='x'), "got 'x'"),
    (dict(type='Res2Net', depth=50, scales=1), 'at least 2 scales'), (dict(type='ResNet', depth=50, conv_cfg=dict(type='ConvWs')), "unknown convolution 'ConvWs'"),
    (dict(type='ResNet', depth=50, plugins=[dict(cfg=dict(type='ContextBlok', ratio=.5), position='after_conv3')]), 'nearest: ContextBlock'),
    (dict(type='ResNet', depth=50, plugins=[dict(CONTEXT, stages=(True, False))]), 'stages of a plugin has 2 values for 4 stages')])
def test_refusals(change, words):
    with pytest.raises(ValueError, match=words): MODELS.build(change)
