"First weights: recipes, their order, files, and the layers that are built from small dicts."
import warnings

import pytest
import torch
from torch import nn

from learndet.core.registry import MODELS, build
from learndet.models.backbones.resnet import ResNet, ResNetV1d, probe_channels
from learndet.models.layers.conv_module import ConvModule, bake_norms, conv_norm, norm_folding
from learndet.models.layers.init import (BaseModule, Caffe2Xavier, Constant, Kaiming, ModuleDict, ModuleList, Normal, Pretrained,
                                         Sequential, TruncNormal, Uniform, Xavier, init_report, initialize)
from learndet.models.necks.fpn import FPN, check_channels
from learndet.models.weights import fetch_file, load_matching, read_weights, weight_file

torch.set_num_threads(1)


class Small(BaseModule):
    def __init__(self, init_cfg=None):
        super().__init__(init_cfg)
        self.feat, self.reg, self.cls = nn.Conv1d(3, 1, 3), nn.Conv2d(3, 3, 3), nn.Linear(1, 2)


def values(model): return {n: (m.weight.unique().tolist(), m.bias.unique().tolist()) for n, m in model.named_children()}


def test_nothing_happens_before_init_weights():
    model = Small(dict(type='Constant', layer='Linear', val=5))
    before = [p.clone() for p in model.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters()))
    model.init_weights()
    assert model.cls.weight.unique().tolist() == [5.] and torch.equal(before[0], model.feat.weight)


def test_the_recipes_of_the_documentation():
    model = Small()
    initialize(model, dict(type='Constant', layer=['Conv1d', 'Conv2d', 'Linear'], val=1))
    assert values(model) == {n: ([1.], [0.]) for n in ('feat', 'reg', 'cls')}
    initialize(model, [dict(type='Constant', layer=layer, val=i) for i, layer in enumerate(('Conv1d', 'Conv2d', 'Linear'), 1)])
    assert [v[0] for v in values(model).values()] == [[1.], [2.], [3.]]
    initialize(model, dict(type='Constant', layer=['Conv1d', 'Conv2d'], val=1, bias=2,
                           override=dict(type='Constant', name='reg', val=3, bias=4)))
    assert values(model) == dict(feat=([1.], [2.]), reg=([3.], [4.]), cls=([3.], [0.]))
    initialize(model, dict(type='Constant', val=8, bias=9, override=[dict(name='reg'), dict(name='cls')]))
    assert values(model) == dict(feat=([1.], [2.]), reg=([8.], [9.]), cls=([8.], [9.]))


@pytest.mark.parametrize('cfg, message', [
    (dict(type='Constant', val=1, override=dict(val=3)), 'needs the name of a child'),
    (dict(type='Constant', val=1, override=dict(name='reg', val=3)), 'needs a type'),
    (dict(type='Constant', val=1, override=dict(name='nose')), "no child 'nose'"),
    (dict(layer='Linear', val=1), 'needs a type'),
    (dict(type='Normal', std=1., layer='Linear', bias_prob=1.), 'strictly between 0 and 1')])
def test_wrong_recipes(cfg, message):
    with pytest.raises(ValueError, match=message): initialize(Small(), cfg)


def test_an_unknown_recipe_offers_a_near_one():
    with pytest.raises(LookupError, match='Constant'): initialize(Small(), dict(type='Constnat', val=1, layer='Linear'))


def test_child_before_parent_and_containers_are_looked_through():
    class Outer(BaseModule):
        def __init__(self):
            super().__init__(dict(type='Constant', layer='Linear', val=1))
            self.plain = nn.ModuleDict(dict(inner=Sequential(nn.Linear(1, 1), init_cfg=dict(type='Constant', layer='Linear', val=2))))
            self.list = ModuleList([nn.Linear(1, 1)])
            self.dict = ModuleDict(dict(a=nn.Linear(1, 1)), init_cfg=dict(type='Constant', layer='Linear', val=3))
    model = Outer()
    report = init_report(model)
    assert [model.plain.inner[0].weight.item(), model.list[0].weight.item(), model.dict.a.weight.item()] == [2., 1., 3.]
    assert report['plain.inner.0.weight'] == 'Constant(bias=0.0, val=2)'


def test_a_second_call_warns_and_changes_nothing():
    model = Small(Constant(1., layer='Linear'))
    model.init_weights()
    model.cls.weight.data.fill_(7)
    with pytest.warns(UserWarning, match='called before'): model.init_weights()
    assert model.cls.weight.unique().item() == 7


@pytest.mark.parametrize('init, std', [(Normal(std=.01), .01), (Uniform(a=-3., b=3.), 3 / 3 ** .5), (TruncNormal(std=1.), .88),
                                       (Xavier(), (2 / (288 + 1152)) ** .5), (Xavier(distribution='uniform'), (2 / (288 + 1152)) ** .5),
                                       (Kaiming(), (2 / 1152) ** .5), (Kaiming(mode='fan_in', distribution='uniform'), (2 / 288) ** .5),
                                       (Caffe2Xavier(), (1 / 288) ** .5)], ids=repr)
def test_spreads(init, std):
    torch.manual_seed(0)
    conv = nn.Conv2d(32, 128, 3)
    init(conv, whole=True)
    assert conv.weight.std().item() == pytest.approx(std, rel=.02) and not conv.bias.any()


def test_a_layer_may_be_named_by_its_base_class():
    class Own(nn.BatchNorm2d): pass
    norm = Own(3)
    Constant(4., layer='_BatchNorm')(norm)
    assert norm.weight.unique().item() == 4


def test_layers_without_parameters_are_left_alone():
    Constant(1., layer=['BatchNorm2d', 'ReLU', 'Conv2d'])(nn.Sequential(nn.BatchNorm2d(3, affine=False), nn.ReLU(), nn.Conv2d(1, 1, 1, bias=False)))


def test_pretrained_has_the_last_word_and_says_what_is_missing(tmp_path):
    file = tmp_path / 'w.pth'
    torch.save({'state_dict': {'reg.weight': torch.full((3, 3, 3, 3), 5.), 'reg.bias': torch.zeros(3), 'other': torch.ones(1)}}, file)
    model = Small([dict(type='Pretrained', checkpoint=str(file)), dict(type='Constant', layer=['Conv1d', 'Conv2d', 'Linear'], val=1)])
    with pytest.warns(UserWarning, match='does not fill all of Small'): model.init_weights()
    assert values(model)['reg'] == ([5.], [0.]) and values(model)['cls'] == ([1.], [0.])


def test_pretrained_refuses_another_architecture(tmp_path):
    torch.save(ResNet(18, base_channels=4).state_dict(), tmp_path / 'r18.pth')
    with pytest.raises(ValueError, match='nothing was loaded'):
        ResNet(50, base_channels=4, init_cfg=Pretrained(str(tmp_path / 'r18.pth'))).init_weights()


def test_build_leaves_init_cfg_a_dict():
    neck = build(dict(type='FPN', in_channels=[4, 8], out_channels=4, num_outs=2, init_cfg=dict(type='Constant', layer='Conv2d', val=2)))
    neck.init_weights()
    assert neck.lateral_convs[0].conv.weight.unique().item() == 2
    assert MODELS.get('mmdet.ResNet') is ResNet


# ---- layers

def test_folding_follows_the_weights():
    "Nothing is stored: a new weight, scale or statistic shows at the next call."
    conv, norm, x = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4).eval(), torch.randn(1, 3, 8, 8)
    for change in (conv.weight, norm.weight, norm.bias, norm.running_mean, norm.running_var):
        change.data.add_(1.)
        torch.testing.assert_close(conv_norm(x, conv, norm), norm(conv(x)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('make', [lambda: nn.Conv2d(4, 6, 3, padding=1, padding_mode='reflect'), lambda: nn.Conv2d(4, 6, 3, dilation=2, stride=2),
                                  lambda: nn.Conv2d(4, 6, 1, groups=2, bias=False)])
def test_folding_of_all_kinds_of_convolutions(make):
    torch.manual_seed(0)
    conv, norm, x = make().double(), nn.BatchNorm2d(6).double(), torch.randn(2, 4, 9, 9, dtype=torch.float64)
    norm(conv(x)); norm.eval()
    torch.testing.assert_close(conv_norm(x, conv, norm), norm(conv(x)))
    with norm_folding(False): assert torch.equal(conv_norm(x, conv, norm), norm(conv(x)))


def test_a_baked_model_predicts_the_same():
    torch.manual_seed(0)
    model, x = ResNetV1d(50, base_channels=4, norm_eval=False), torch.randn(2, 3, 64, 64)
    for _ in range(2): model(x)
    before = model.eval()(x)
    assert bake_norms(model, x) > 50 and not any(isinstance(m, nn.BatchNorm2d) for m in model.modules())
    for a, b in zip(model(x), before): torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_checkpointed_blocks_in_training():
    torch.manual_seed(0)
    a, b = ResNet(50, base_channels=4, frozen_stages=1), ResNet(50, base_channels=4, frozen_stages=1, with_cp=True)
    b.load_state_dict(a.state_dict())
    x = torch.randn(1, 3, 64, 64)
    for model in (a, b): sum(o.square().sum() for o in model.train()(x)).backward()
    for (name, p), q in zip(a.named_parameters(), b.parameters()):
        assert (p.grad is None) == (q.grad is None) == name.startswith(('conv1', 'bn1', 'layer1'))
        if p.grad is not None: torch.testing.assert_close(p.grad, q.grad)


@pytest.mark.parametrize('cfg', [dict(deep_stem=True), dict(avg_down=True), dict(norm_cfg=dict(type='GN', num_groups=2)), dict(num_stages=2, strides=(1, 2),
                                 dilations=(1, 1), out_indices=(0, 1)), dict(stem_channels=16, in_channels=4)])
@pytest.mark.parametrize('depth', [18, 50])
def test_variants_say_their_channels(depth, cfg):
    model = ResNet(depth, base_channels=8, **cfg)
    probed = probe_channels(model, cfg.get('in_channels', 3))
    assert [c for c, _ in probed] == model.out_channels and [s for _, s in probed] == [4, 8, 16, 32][:len(probed)]


def test_a_neck_for_another_backbone_is_refused():
    with pytest.raises(ValueError, match=r'ResNet gives \[64, 128, 256, 512\] channels, but FPN was built for \[256, 512'):
        check_channels(ResNet(18), FPN([256, 512, 1024, 2048], 8, 5))


# ---- files

def test_without_a_network_the_message_says_what_to_put_where(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path))
    with pytest.raises(FileNotFoundError) as error: fetch_file('http://127.0.0.1:9/resnet50-0676ba61.pth', 'torchvision://resnet50')
    assert 'torchvision://resnet50 is not on this machine' in str(error.value)
    assert f'put it at {tmp_path}/checkpoints/resnet50-0676ba61.pth' in str(error.value)


def test_a_file_put_there_by_hand_is_found_and_checked(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path))
    (tmp_path / 'checkpoints').mkdir()
    (tmp_path / 'checkpoints' / 'resnet50-0676ba61.pth').write_bytes(b'half a file')
    with pytest.raises(ValueError, match='damaged or cut: its name promises SHA-256 0676ba61'): weight_file('torchvision://resnet50')


def test_a_failed_download_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path / 'hub'))
    (tmp_path / 'w-deadbeef.pth').write_bytes(b'not what the name promises')
    with pytest.raises(FileNotFoundError, match='invalid hash value'): weight_file((tmp_path / 'w-deadbeef.pth').as_uri())
    assert not list((tmp_path / 'hub' / 'checkpoints').iterdir())


def test_a_cut_file_is_no_weights(tmp_path):
    torch.save({'w': torch.randn(100)}, tmp_path / 'a.pth')
    (tmp_path / 'b.pth').write_bytes((tmp_path / 'a.pth').read_bytes()[:300])
    with pytest.raises(ValueError, match='b.pth is cut'): read_weights(str(tmp_path / 'b.pth'))


def test_the_report_accounts_for_every_tensor():
    model = ResNet(18, base_channels=4, in_channels=4)
    state = ResNet(18, base_channels=4).state_dict()
    del state['layer4.1.bn2.weight']
    state['layer4.1.conv2.weight'], state['fc.weight'] = torch.zeros(1), torch.zeros(3)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        report = load_matching(model, state, min_share=0.)
    own = [k for k in model.state_dict() if 'num_batches' not in k]
    assert (report.adapted, report.mismatched, report.missing, report.unexpected) == (
        ['conv1.weight'], ['layer4.1.conv2.weight'], ['layer4.1.bn2.weight'], ['fc.weight'])
    assert len(report.loaded) == len(own) - 3
