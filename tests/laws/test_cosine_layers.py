"Laws of cosine classifiers, and of what batch norms of a second stage see."
import torch
from hypothesis import given, settings, strategies as st
from torch import nn

from learndet.models.layers.cosine_layers import NormedConv2d, NormedLinear
from learndet.models.roi_heads.bbox_head import Shared4Conv1FCBBoxHead
from learndet.models.roi_heads.mask_head import FCNMaskHead
from learndet.models.roi_heads.standard_roi_head import answers


def draw(seed, *shape): return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.floats(.01, 100), st.floats(.01, 100))
def test_lengths_do_not_matter(seed, a, b):
    layer, x = NormedLinear(5, 3), draw(seed, 4, 5)
    before = layer(x)
    with torch.no_grad(): layer.weight *= b
    torch.testing.assert_close(layer(a * x), before, rtol=1e-2, atol=1e-2)
    assert before.abs().max() <= 20 + 1e-3


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([0., 1e-30, 1e-12, 1., 1e12]), st.sampled_from([.25, .5, 1., 2.]), st.booleans())
def test_gradients_are_finite_for_vectors_of_any_length(seed, scale, power, whole):
    x = (draw(seed, 2, 4, 3, 3) * scale).requires_grad_()
    conv = NormedConv2d(4, 3, 3, power=power, norm_over_kernel=whole)
    with torch.no_grad(): conv.weight[0] = 0
    assert all(g.isfinite().all() for g in torch.autograd.grad(conv(x).sum(), [x, conv.weight]))


def batch_norms(head): return [m for m in head.modules() if isinstance(m, nn.BatchNorm2d)]


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 6), st.sampled_from(['box', 'mask']))
def test_padding_changes_neither_answers_nor_statistics_nor_gradients(seed, padding, kind):
    torch.manual_seed(seed)
    small = dict(num_classes=2, in_channels=4, conv_out_channels=4, norm_cfg=dict(type='BN'))
    head = Shared4Conv1FCBBoxHead(fc_out_channels=8, **small) if kind == 'box' else FCNMaskHead(num_convs=2, **small)
    x, real = torch.randn(3 + padding, 4, 7, 7), torch.randperm(3 + padding) < 3
    seen = []
    for rows, mask in ((x, real), (x[real], torch.ones(3, dtype=torch.bool))):
        for m in batch_norms(head): m.reset_running_stats()
        head.zero_grad()
        outs = answers(head, rows, mask)
        outs = [out[mask] for out in (outs if isinstance(outs, tuple) else [outs])]
        sum(out.square().sum() for out in outs).backward()
        seen.append([*(o.detach() for o in outs), *(m.running_mean.clone() for m in batch_norms(head)), *(m.running_var.clone() for m in batch_norms(head)),
                     *(p.grad.clone() for p in head.parameters())])
    for a, b in zip(*seen): torch.testing.assert_close(a, b)


def test_with_no_real_row_nothing_is_counted_and_every_weight_has_a_gradient():
    for head in (Shared4Conv1FCBBoxHead(num_classes=2, in_channels=4, conv_out_channels=4, fc_out_channels=8, norm_cfg=dict(type='BN')),
                 FCNMaskHead(num_convs=2, num_classes=2, in_channels=4, conv_out_channels=4, norm_cfg=dict(type='BN'))):
        outs = answers(head, torch.randn(3, 4, 7, 7), torch.zeros(3, dtype=torch.bool))
        sum(out.sum() for out in (outs if isinstance(outs, tuple) else [outs])).backward()
        assert all(p.grad is not None and (p.grad == 0).all() for p in head.parameters())
        assert all((m.running_mean == 0).all() and (m.running_var == 1).all() for m in batch_norms(head))
