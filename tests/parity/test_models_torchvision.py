"Backbones, pyramid and losses against torchvision's, with the same weights and the same numbers."
import pytest
import torch
from torch import nn

torchvision = pytest.importorskip('torchvision', reason='torchvision is not installed: there is nothing to compare with')
from torchvision import models, ops
from torchvision.models.detection import fasterrcnn_resnet50_fpn, retinanet_resnet50_fpn, retinanet_resnet50_fpn_v2

from learndet.models.backbones.resnet import ResNet
from learndet.models.layers.conv_module import norm_folding
from learndet.models.necks.fpn import FPN
from learndet.models.weights import (convert_torchvision_fasterrcnn, convert_torchvision_retinanet, load_matching,
                                     torchvision_base_anchors, with_prefix)
from learndet.task_modules.losses.focal import FocalLoss, sigmoid_focal_loss
from learndet.task_modules.losses.iou_losses import ciou_loss, diou_loss, giou_loss, iou_loss

torch.set_num_threads(1)                   # the pictures are tiny: threads would only wait for each other
DETECTOR = dict(weights=None, weights_backbone=None, num_classes=4)


@pytest.fixture(autouse=True)
def seed(): torch.manual_seed(0)


def as_if_trained(model):
    "Statistics and scales that are not the trivial ones."
    g = torch.Generator().manual_seed(1)
    for m in model.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.running_mean.normal_(0, .2, generator=g); m.running_var.uniform_(.7, 1.4, generator=g)
            m.weight.data.uniform_(.7, 1.2, generator=g); m.bias.data.normal_(0, .2, generator=g)
    return model.eval()


def stages(model, x):
    "The four stage outputs of torchvision's classifier."
    x = model.maxpool(model.relu(model.bn1(model.conv1(x))))
    return [x := getattr(model, f'layer{i}')(x) for i in (1, 2, 3, 4)]


def same(ours, theirs, eps=1e-5):
    "Equal up to rounding, relative to the largest number."
    assert ours.shape == theirs.shape
    assert ((ours - theirs).abs().max() / theirs.abs().max().clamp(min=1e-12)).item() < eps


@pytest.mark.parametrize('depth, make', [(18, models.resnet18), (50, models.resnet50)])
def test_resnet_stages(depth, make):
    theirs, ours = as_if_trained(make()), ResNet(depth).eval()
    report = load_matching(ours, theirs.state_dict())
    assert report.unexpected == ['fc.weight', 'fc.bias'] and not report.missing and not report.mismatched
    x = torch.randn(1, 3, 40, 56)
    with torch.no_grad():
        for a, b in zip(ours(x), stages(theirs, x)): same(a, b)
        with norm_folding(False): assert all(torch.equal(a, b) for a, b in zip(ours(x), stages(theirs, x)))


@pytest.mark.parametrize('depth, make', [(34, models.resnet34), (101, models.resnet101), (152, models.resnet152)])
def test_deep_resnets_have_the_same_names_and_shapes(depth, make):
    with torch.device('meta'): theirs, ours = make().state_dict(), ResNet(depth).state_dict()
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in theirs.items() if not k.startswith('fc.')}


def test_resnet_gradients():
    theirs, ours = as_if_trained(models.resnet18()), ResNet(18)
    load_matching(ours, theirs.state_dict())
    x = torch.randn(1, 3, 40, 56)
    weights = [torch.randn(o.shape) for o in ours(x)]
    for outs in (ours.train()(x), stages(theirs, x)): sum((o * w).sum() for o, w in zip(outs, weights)).backward()
    for name, p in ours.named_parameters(): same(p.grad, dict(theirs.named_parameters())[name].grad, 1e-4)


@pytest.mark.parametrize('extra', [False, 'on_output', 'on_input'])
def test_pyramid(extra):
    channels = [8, 16, 32]
    block = (ops.feature_pyramid_network.LastLevelP6P7(16 if extra == 'on_output' else 32, 16) if extra
             else ops.feature_pyramid_network.LastLevelMaxPool())
    theirs = ops.FeaturePyramidNetwork(channels, 16, extra_blocks=block)
    ours = FPN(channels, 16, num_outs=5 if extra else 4, add_extra_convs=extra, relu_before_extra_convs=True)
    state = {}
    for k, v in theirs.state_dict().items():
        part, i, _, kind = (k.split('.') + [''])[:4] if 'extra' not in k else ('extra', {'p6': 3, 'p7': 4}[k.split('.')[1]], '', k.split('.')[2])
        state[f"{'lateral_convs' if part == 'inner_blocks' else 'fpn_convs'}.{i}.conv.{kind}"] = v
    ours.load_state_dict(state)
    maps = [torch.randn(2, c, *size) for c, size in zip(channels, ((26, 42), (13, 21), (7, 11)))]
    outs = theirs({str(i): m for i, m in enumerate(maps)})
    for a, b in zip(ours(maps), outs.values()): same(a, b)


def test_converted_retinanet_features():
    theirs = as_if_trained(retinanet_resnet50_fpn(**DETECTOR))
    state = convert_torchvision_retinanet(theirs.state_dict(), classes=[3, 1])
    backbone = ResNet(50).eval()
    neck = FPN(backbone.out_channels, 256, 5, start_level=1, add_extra_convs='on_output', relu_before_extra_convs=True)
    for part, model in (('backbone.', backbone), ('neck.', neck)): model.load_state_dict(with_prefix(state, part, 'x'))
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad(): pairs = list(zip(neck(backbone(x)), theirs.backbone(x).values()))
    assert len(pairs) == 5
    for a, b in pairs: same(a, b)
    rows = theirs.head.classification_head.cls_logits.bias.view(9, 4)[:, [3, 1]].flatten()
    assert torch.equal(state['bbox_head.retina_cls.bias'], rows)


def test_converted_retinanet_v2_names():
    with torch.device('meta'): state = retinanet_resnet50_fpn_v2(**DETECTOR).state_dict()
    ours = convert_torchvision_retinanet({k: torch.zeros(v.shape) for k, v in state.items()})
    assert ours['neck.fpn_convs.3.conv.weight'].shape == (256, 2048, 3, 3)                     # from the backbone: on_input
    towers = [k for k in ours if 'convs' in k and k.startswith('bbox_head')]
    assert len(towers) == 24 and all('.conv.' in k or '.gn.' in k for k in towers)


def test_converted_faster_rcnn_names():
    with torch.device('meta'): state = fasterrcnn_resnet50_fpn(**DETECTOR).state_dict()
    ours = convert_torchvision_fasterrcnn({k: torch.zeros(v.shape) for k, v in state.items()})
    shapes = {k: tuple(v.shape) for k, v in ours.items() if not k.startswith(('backbone', 'neck'))}
    assert shapes == {**{f'rpn_head.rpn_{k}': s for k, s in {'conv.weight': (256, 256, 3, 3), 'conv.bias': (256,),
                         'cls.weight': (3, 256, 1, 1), 'cls.bias': (3,), 'reg.weight': (12, 256, 1, 1), 'reg.bias': (12,)}.items()},
                      **{f'roi_head.bbox_head.{k}': s for k, s in {'shared_fcs.0.weight': (1024, 12544), 'shared_fcs.0.bias': (1024,),
                         'shared_fcs.1.weight': (1024, 1024), 'shared_fcs.1.bias': (1024,), 'fc_cls.weight': (4, 1024),
                         'fc_cls.bias': (4,), 'fc_reg.weight': (12, 1024), 'fc_reg.bias': (12,)}.items()}}
    assert sum(k.startswith('neck') for k in ours) == 16


def test_base_anchors():
    for sizes in ([(32, 40, 50), (64, 80, 101)], [(32,), (64,), (128,)]):
        theirs = models.detection.anchor_utils.AnchorGenerator(tuple(sizes), ((.5, 1., 2.),) * len(sizes)).cell_anchors
        assert all(torch.equal(a, b) for a, b in zip(torchvision_base_anchors(sizes), theirs))


@pytest.mark.parametrize('gamma, alpha', [(2., .25), (1.5, .5), (0., .25), (.5, .9), (5., .1)])
@pytest.mark.parametrize('scale', [1., 30.])
def test_focal_loss(gamma, alpha, scale):
    x, label = (scale * torch.randn(60, 7)).requires_grad_(), torch.randint(0, 8, (60,))
    one_hot = nn.functional.one_hot(label, 8)[:, :7].float()
    theirs = ops.sigmoid_focal_loss(x, one_hot, alpha, gamma, reduction='none')
    torch.testing.assert_close(sigmoid_focal_loss(x, label, None, gamma, alpha, 'none'), theirs, rtol=1e-4, atol=1e-6)
    ours = FocalLoss(gamma=gamma, alpha=alpha)(x, label, avg_factor=9.)
    torch.testing.assert_close(ours, theirs.sum() / 9, rtol=1e-4, atol=1e-6)
    grad, their_grad = torch.autograd.grad(ours, x)[0], torch.autograd.grad(theirs.sum() / 9, x)[0]
    finite = their_grad.isfinite()                            # theirs is NaN where p is 0 or 1 and gamma is below 1; ours never
    assert grad.isfinite().all() and finite.float().mean() > .3
    torch.testing.assert_close(grad[finite], their_grad[finite], rtol=1e-3, atol=1e-5)


def boxes(n=300):
    corner = 60 * torch.rand(n, 2)
    pred = torch.cat([corner, corner + 1 + 40 * torch.rand(n, 2)], 1)
    target = pred + 3 * torch.randn(n, 4)
    target[:, 2:] = torch.maximum(target[:, 2:], target[:, :2] + 1)
    return pred.requires_grad_(), target


@pytest.mark.parametrize('ours, theirs', [(giou_loss, ops.generalized_box_iou_loss), (diou_loss, ops.distance_box_iou_loss),
                                          (ciou_loss, ops.complete_box_iou_loss)])
def test_iou_losses(ours, theirs):
    pred, target = boxes()
    a, b = ours(pred, target, reduction='none', eps=1e-7), theirs(pred, target)
    if ours is ciou_loss:                                     # theirs compares shapes at any overlap (the first paper), ours above half
        half = iou_loss(pred, target, mode='linear', reduction='none') < .5
        assert half.float().mean() > .3 and (b >= a - 1e-6).all()
        a, b = a[half], b[half]
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(torch.autograd.grad(a.sum(), pred)[0], torch.autograd.grad(b.sum(), pred)[0], rtol=1e-3, atol=1e-5)
