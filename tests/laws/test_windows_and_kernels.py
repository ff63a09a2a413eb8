"Windows of attention and kernels of CARAFE: what holds for every size."
import torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st

from learndet.models.layers.carafe import reassemble
from learndet.models.layers.patches import PatchMerging, to_map, to_tokens
from learndet.models.layers.window_attention import ShiftWindowMSA, window_partition, window_reverse

torch.set_num_threads(1)
sides = st.integers(1, 3)

@given(st.integers(1, 4), sides, sides, st.data())
@settings(max_examples=25, deadline=None)
def test_rolled_windows_are_the_windows_of_the_plane(w, rows, columns, data):
    "Attention over all pairs, masked to those in one shifted window, gives the same."
    shift, (H, W) = data.draw(st.integers(0, w - 1)), (rows * w, columns * w)
    torch.manual_seed(data.draw(st.integers(0, 99)))
    layer, x = ShiftWindowMSA(4, 2, w, shift), torch.randn(2, H * W, 4)
    i, j = torch.meshgrid(torch.arange(H), torch.arange(W), indexing='ij')
    window = torch.stack([torch.div(t - shift, w, rounding_mode='floor').flatten() for t in (i, j)])        # (2, H·W)
    together = (window[:, :, None] == window[:, None, :]).all(0)
    q, k, v = layer.w_msa.qkv(x).unflatten(-1, (3, 2, 2)).permute(2, 0, 3, 1, 4)
    plain = F.scaled_dot_product_attention(q, k, v, attn_mask=together)
    torch.testing.assert_close(layer(x, (H, W)), layer.w_msa.proj(plain.transpose(1, 2).flatten(2)), rtol=1e-4, atol=1e-5)

@given(sides, sides, sides, sides)
@settings(max_examples=20, deadline=None)
def test_cutting_and_joining_undo_each_other(B, w, rows, columns):
    x = torch.randn(B, rows * w, columns * w, 3)
    assert torch.equal(window_reverse(window_partition(x, w), w, (rows * w, columns * w)), x)
    m = x.permute(0, 3, 1, 2)
    assert torch.equal(to_map(to_tokens(m), m.shape[2:]), m)

@given(st.integers(1, 9), st.integers(1, 9))
@settings(max_examples=20, deadline=None)
def test_merging_rounds_up_and_keeps_pictures_apart(H, W):
    layer, x = PatchMerging(3, 5), torch.randn(2, H * W, 3)
    y, shape = layer(x, (H, W))
    assert shape == (-(-H // 2), -(-W // 2)) and y.shape == (2, shape[0] * shape[1], 5)
    torch.testing.assert_close(y[1:], layer(x[1:], (H, W))[0], rtol=1e-4, atol=1e-6)

@given(st.integers(1, 5), st.integers(1, 5), sides, st.sampled_from([1, 3, 5]), st.integers(1, 2))
@settings(max_examples=25, deadline=None)
def test_kernels_that_sum_to_one_keep_a_constant_away_from_the_border(H, W, s, k, g):
    r = k // 2
    kernels = torch.randn(1, g, k * k, s * (H + 2 * r), s * (W + 2 * r)).softmax(2).flatten(1, 2)
    out = reassemble(torch.full((1, 2 * g, H + 2 * r, W + 2 * r), 3.), kernels, k, s)
    inner = out[:, :, s * r:s * (H + r), s * r:s * (W + r)]
    torch.testing.assert_close(inner, torch.full_like(inner, 3.))
    assert (out <= 3.0001).all()                                    # zeros beyond the border only take away
