"Laws of deformable convolutions, standardised weights, attention and the plans of backbones."
import torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st
from torch import nn

from learndet.core.fast_paths import use_torchvision
from learndet.models.backbones.regnet import regnet_stages, regnet_widths
from learndet.models.layers.context_block import ContextBlock
from learndet.models.layers.deformable_conv import DeformConv2dPack, ModulatedDeformConv2dPack, deform_conv2d
from learndet.models.layers.generalized_attention import GeneralizedAttention
from learndet.models.layers.inverted_residual import Conv2dAdaptivePadding, make_divisible
from learndet.models.layers.weight_standardization import standardize_weight

def draw(seed, *shape): return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)

@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(-3, 3), st.integers(-3, 3), st.booleans())
def test_a_constant_whole_offset_is_a_shifted_map(seed, dy, dx, compiled):
    x, weight = draw(seed, 2, 3, 6, 7), draw(seed + 1, 4, 3, 3, 3)
    offset = torch.tensor([dy, dx], dtype=torch.float64).repeat(9).view(1, 18, 1, 1).expand(2, 18, 6, 7)
    shifted = F.pad(x, (5, 5, 5, 5)).roll((-dy, -dx), (2, 3))                    # what is read comes from dy below, dx to the right
    with use_torchvision(compiled): y = deform_conv2d(x, offset, weight, padding=(1, 1))
    torch.testing.assert_close(y, F.conv2d(shifted, weight, padding=1)[:, :, 5:-5, 5:-5])

@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.floats(-1e4, 1e4), st.booleans())
def test_wherever_offsets_point_gradients_are_finite(seed, far, compiled):
    tensors = [t.requires_grad_() for t in (draw(seed, 1, 2, 4, 5), draw(seed, 1, 18, 4, 5) * far, draw(seed, 3, 2, 3, 3))]
    with use_torchvision(compiled): y = deform_conv2d(*tensors, padding=(1, 1))
    assert all(g.isfinite().all() for g in torch.autograd.grad(y.square().sum(), tensors))

@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([DeformConv2dPack, ModulatedDeformConv2dPack]), st.sampled_from([1, 2]))
def test_a_batch_is_its_pictures(seed, cls, deform_groups):
    torch.manual_seed(seed)
    layer, x = cls(4, 6, 3, padding=1, deform_groups=deform_groups), torch.randn(3, 4, 5, 6)
    nn.init.normal_(layer.conv_offset.weight)
    with torch.no_grad(): torch.testing.assert_close(layer(x), torch.cat([layer(x[b:b + 1]) for b in range(3)]), rtol=1e-3, atol=1e-4)

@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.floats(.1, 10), st.floats(-3, 3))
def test_mean_and_size_of_a_filter_do_not_matter(seed, scale, shift):
    w = draw(seed, 4, 3, 3, 3)
    torch.testing.assert_close(standardize_weight(w, eps=0), standardize_weight(scale * w + shift, eps=0))

@settings(max_examples=30, deadline=None)
@given(st.integers(1, 24), st.floats(0, 80), st.floats(1.5, 4), st.integers(1, 30))
def test_widths_of_a_regnet_grow_and_are_divisible(w0, wa, wm, depth):
    widths = regnet_widths(8 * w0, wa, wm, depth)
    assert len(widths) == depth and widths == sorted(widths) and all(w % 8 == 0 for w in widths)
    stages = regnet_stages(dict(w0=8 * w0, wa=wa, wm=wm, depth=depth, group_w=16, bot_mul=1.))
    assert sum(s['num_blocks'] for s in stages) == depth and all(s['planes'] % s['base_width'] == 0 for s in stages)

@given(st.floats(1, 3000), st.sampled_from([4, 8, 16]))
def test_divisible_channels_are_near_what_was_asked_for(value, divisor):
    channels = make_divisible(value, divisor)
    assert channels % divisor == 0 and channels >= .9 * value and (channels - value <= divisor)

@settings(max_examples=25, deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 3), st.sampled_from([1, 3, 5]))
def test_adaptive_padding_covers_the_map(H, W, stride, k):
    assert Conv2dAdaptivePadding(1, 1, k, stride)(torch.zeros(1, 1, H, W)).shape[2:] == (-(-H // stride), -(-W // stride))

@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(['att', 'avg']))
def test_context_does_not_care_for_places(seed, pooling):
    torch.manual_seed(seed)
    block, x = ContextBlock(6, .5, pooling), torch.randn(2, 6, 3, 4)
    shuffled = x.flatten(2)[..., torch.randperm(12)].view_as(x)
    with torch.no_grad(): torch.testing.assert_close(block.spatial_pool(x), block.spatial_pool(shuffled))

@settings(max_examples=15, deadline=None)
@given(st.integers(1, 15), st.integers(1, 6), st.integers(1, 6))
def test_attention_takes_any_size_and_starts_as_the_identity(kind, H, W):
    block, x = GeneralizedAttention(8, num_heads=2, attention_type=f'{kind:04b}'), torch.randn(2, 8, H, W)
    assert torch.equal(block(x), x)
    torch.nn.init.ones_(block.gamma)
    assert all(g.isfinite().all() for g in torch.autograd.grad(block(x).square().sum(), list(block.parameters())))
