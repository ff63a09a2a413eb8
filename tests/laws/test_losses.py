"What every loss promises, whatever the numbers."
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck

from learndet.task_modules.losses.cross_entropy import CrossEntropyLoss, binary_cross_entropy, cross_entropy
from learndet.task_modules.losses.focal import FocalLoss, sigmoid_focal_loss
from learndet.task_modules.losses.iou_losses import BoundedIoULoss, CIoULoss, DIoULoss, GIoULoss, IoULoss
from learndet.task_modules.losses.l1 import L1Loss, MSELoss, SmoothL1Loss
from learndet.task_modules.losses.reduction import accuracy, reduce_loss, weight_reduce_loss

torch.set_num_threads(1)

BOX_LOSSES = [IoULoss(), IoULoss(mode='linear'), IoULoss(mode='square'), GIoULoss(), DIoULoss(), CIoULoss(), BoundedIoULoss()]
OFFSET_LOSSES = [L1Loss(), MSELoss(), SmoothL1Loss(), SmoothL1Loss(beta=1 / 9)]
name = lambda loss: type(loss).__name__ + getattr(loss, 'mode', '')

coordinate = st.floats(-1e4, 1e4, width=32)
side = st.one_of(st.just(0.), st.floats(0, 1e4, width=32))                      # boxes without area are boxes


@st.composite
def box_pairs(draw):
    "Up to six boxes and as many targets, some equal, some without area."
    n = draw(st.integers(0, 6))
    make = lambda: [[x := draw(coordinate), y := draw(coordinate), x + draw(side), y + draw(side)] for _ in range(n)]
    pred = torch.tensor(make()).view(-1, 4)
    return pred, pred.clone() if draw(st.booleans()) else torch.tensor(make()).view(-1, 4)


@pytest.mark.parametrize('loss', BOX_LOSSES, ids=name)
@settings(max_examples=25, deadline=None)
@given(pair=box_pairs())
def test_box_losses_are_finite_and_not_negative(loss, pair):
    pred, target = pair[0].requires_grad_(), pair[1]
    value = loss(pred, target, reduction_override='none')
    value.sum().backward()
    assert value.isfinite().all() and pred.grad.isfinite().all() and (value >= -1e-5).all()


@pytest.mark.parametrize('loss', BOX_LOSSES, ids=name)
@settings(max_examples=20, deadline=None)
@given(data=st.lists(st.tuples(st.floats(0, 500, width=32), st.floats(0, 500, width=32), st.floats(1, 500, width=32), st.floats(1, 500, width=32)),
                     min_size=1, max_size=5))
def test_a_box_that_was_found_costs_nothing(loss, data):
    boxes = torch.tensor([[x, y, x + w, y + h] for x, y, w, h in data])
    assert loss(boxes, boxes, reduction_override='none').abs().max() < 2e-3     # BoundedIoULoss adds a thousandth to its denominators


@pytest.mark.parametrize('loss', BOX_LOSSES + OFFSET_LOSSES, ids=name)
@settings(max_examples=20, deadline=None)
@given(pair=box_pairs())
def test_weight_zero_removes_and_scales(loss, pair):
    pred, target = pair
    weight = torch.zeros(len(pred), 4)
    assert loss(pred, target, weight, avg_factor=1.) == 0
    weight[::2] = 2.
    kept = loss(pred[::2], target[::2], torch.full_like(target[::2], 2.), avg_factor=3.)
    torch.testing.assert_close(loss(pred, target, weight, avg_factor=3.), kept, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize('loss', [GIoULoss(), DIoULoss(), CIoULoss(), IoULoss(mode='linear')], ids=name)
def test_box_losses_do_not_care_for_place_and_order(loss):
    pred, target = torch.tensor([[10., 10., 50., 30.]]), torch.tensor([[20., 5., 45., 40.]])
    value = loss(pred, target)
    torch.testing.assert_close(loss(pred + 7, target + 7), value, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(loss(4 * pred, 4 * target), value, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(loss(target, pred), value, rtol=1e-4, atol=1e-5)
    assert loss(pred.roll(1, 1)[:, [1, 0, 3, 2]], target) >= 0


@pytest.mark.parametrize('loss', [IoULoss(), GIoULoss(), DIoULoss(), BoundedIoULoss(), SmoothL1Loss(), MSELoss(), L1Loss()], ids=name)
def test_gradients_of_box_losses(loss):
    pred = torch.tensor([[10., 10., 50., 30.], [0., 0., 9., 7.]], dtype=torch.float64, requires_grad=True)
    target = torch.tensor([[20., 5., 45., 41.], [30., 3., 42., 8.]], dtype=torch.float64)
    assert gradcheck(lambda p: loss(p, target, reduction_override='none'), (pred,), eps=1e-5, atol=1e-6)


def test_gradient_of_ciou_holds_its_alpha_fixed():
    "The weight of the shape term is a constant of the step, so the gradient is that of the rest."
    pred = torch.tensor([[10., 10., 50., 30.]], dtype=torch.float64, requires_grad=True)
    far = torch.tensor([[30., 5., 95., 41.]], dtype=torch.float64)                                  # IoU below one half: no shape term
    assert gradcheck(lambda p: CIoULoss()(p, far, reduction_override='none'), (pred,), eps=1e-5, atol=1e-6)


logit_rows = st.lists(st.lists(st.floats(-1e4, 1e4, width=32), min_size=3, max_size=3), min_size=0, max_size=6)


@settings(max_examples=20, deadline=None)
@given(rows=logit_rows, data=st.data())
@pytest.mark.parametrize('loss', [CrossEntropyLoss(use_sigmoid=True), FocalLoss(), FocalLoss(gamma=.5), FocalLoss(gamma=0.), CrossEntropyLoss()],
                         ids=['bce', 'focal', 'focal .5', 'focal 0', 'ce'])
def test_classification_losses_are_finite_and_not_negative(loss, rows, data):
    pred = torch.tensor(rows).view(-1, 3).requires_grad_()
    highest = 2 if loss == 'ce' or (isinstance(loss, CrossEntropyLoss) and not loss.use_sigmoid) else 3
    label = torch.tensor(data.draw(st.lists(st.integers(0, highest), min_size=len(rows), max_size=len(rows))), dtype=torch.long)
    value = loss(pred, label, reduction_override='none')
    value.sum().backward()
    assert value.isfinite().all() and pred.grad.isfinite().all() and (value >= -1e-6).all()


@settings(max_examples=20, deadline=None)
@given(n=st.integers(0, 20), K=st.integers(1, 6), seed=st.integers(0, 1000), gamma=st.sampled_from([0., .5, 1., 2., 3.]))
def test_sparse_and_dense_focal_loss_agree(n, K, seed, gamma):
    g = torch.Generator().manual_seed(seed)
    x, label, w = torch.randn(n, K, generator=g).requires_grad_(), torch.randint(0, K + 1, (n,), generator=g), torch.rand(n, generator=g)
    one_hot = torch.nn.functional.one_hot(label, K + 1)[:, :K].float()
    values = [sigmoid_focal_loss(x, target, w, gamma=gamma, avg_factor=5.) for target in (label, one_hot)]
    torch.testing.assert_close(*values, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(*[torch.autograd.grad(v, x)[0] for v in values], rtol=1e-3, atol=1e-6)


def test_gradients_of_classification_losses():
    x, label = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_(), torch.tensor([0, 1, 2, 2])
    for f in (lambda x: sigmoid_focal_loss(x, label, reduction='none'), lambda x: cross_entropy(x, label, reduction='none'),
              lambda x: binary_cross_entropy(x, label, reduction='none'), lambda x: sigmoid_focal_loss(x, label, gamma=.5, avg_factor=2.)):
        assert gradcheck(f, (x,))
    masks, truth = torch.randn(2, 3, 4, 4, dtype=torch.float64).requires_grad_(), torch.randint(0, 2, (2, 4, 4)).double()
    assert gradcheck(lambda m: CrossEntropyLoss(use_mask=True)(m, truth, label=torch.tensor([2, 0])), (masks,))


@settings(max_examples=20, deadline=None)
@given(n=st.integers(0, 12), extra=st.integers(0, 12), seed=st.integers(0, 100))
def test_padding_rows_change_nothing(n, extra, seed):
    "The same rows with weight, and any number of rows of weight 0 behind them: the same loss."
    g = torch.Generator().manual_seed(seed)
    x, label = torch.randn(n + extra, 4, generator=g), torch.randint(0, 5, (n + extra,), generator=g)
    w = torch.cat([torch.rand(n, generator=g), torch.zeros(extra)])
    for loss in (FocalLoss(), CrossEntropyLoss(use_sigmoid=True)):
        torch.testing.assert_close(loss(x, label, w, avg_factor=3.), loss(x[:n], label[:n], w[:n], avg_factor=3.), rtol=1e-4, atol=1e-6)


@given(st.lists(st.floats(-100, 100, width=32), max_size=8), st.sampled_from(['none', 'mean', 'sum']))
@settings(max_examples=20, deadline=None)
def test_reductions(values, reduction):
    loss = torch.tensor(values)
    reduced = reduce_loss(loss, reduction)
    assert reduced.shape == (loss.shape if reduction == 'none' else ())
    assert torch.equal(weight_reduce_loss(loss, torch.zeros_like(loss), reduction), torch.zeros_like(reduced))
    if reduction == 'mean' and values: torch.testing.assert_close(reduced, loss.mean(), rtol=1e-4, atol=1e-4)


def test_half_precision_is_computed_in_float32():
    x, t = torch.full((3, 4), 3e4), torch.full((3, 4), -3e4)
    for dtype in (torch.float16, torch.bfloat16):
        for loss in OFFSET_LOSSES + BOX_LOSSES: assert loss(x.to(dtype), t.to(dtype)).dtype == torch.float32
        assert L1Loss()(x.to(dtype), t.to(dtype)).isfinite()
        for loss in (FocalLoss(), CrossEntropyLoss(), CrossEntropyLoss(use_sigmoid=True)):
            assert loss(x.to(dtype), torch.tensor([0, 1, 2])).dtype == torch.float32


def test_losses_compile_without_graph_breaks():
    "The task functions are compiled as one graph, so no loss may depend on data in Python."
    x, label, w = torch.randn(8, 4), torch.tensor([0, 1, 2, 3, 4, 4, 4, 4]), torch.ones(8)
    p, t = torch.rand(8, 4).cumsum(1), torch.rand(8, 4).cumsum(1)
    def all_of_them(x, label, w, p, t):
        total = FocalLoss()(x, label, w, avg_factor=w.sum()) + CrossEntropyLoss(use_sigmoid=True, avg_non_ignore=True)(x, label, w)
        for loss in (IoULoss(), CIoULoss(), SmoothL1Loss()): total = total + loss(p, t, w[:, None].expand(8, 4), avg_factor=w.sum())
        return total + accuracy(x, label.clamp(max=3))
    eager = all_of_them(x, label, w, p, t)
    compiled = torch.compile(all_of_them, fullgraph=True, dynamic=False, backend='eager')
    torch.testing.assert_close(compiled(x, label, w, p, t), eager)
