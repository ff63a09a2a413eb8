"What every loss promises, whatever the numbers."
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck

from learndet.task_modules.losses.cross_entropy import CrossEntropyLoss, binary_cross_entropy, cross_entropy
from learndet.task_modules.losses.focal import FocalLoss, sigmoid_focal_loss
from learndet.task_modules.losses.iou_losses import BoundedIoULoss, CIoULoss, DIoULoss, GIoULoss, IoULoss
from learndet.task_modules.losses.l1 import L1Loss, MSELoss, SmoothL1Loss
from learndet.task_modules.losses.gaussian_focal import GaussianFocalLoss
from learndet.task_modules.losses.gradient_harmonizing import GHMC, GHMR
from learndet.task_modules.losses.masks_and_distillation import ArcLoss, DiceLoss, KnowledgeDistillationKLDivLoss
from learndet.task_modules.losses.more_box_losses import BalancedL1Loss, EIoULoss, SIoULoss
from learndet.task_modules.losses.quality_losses import DistributionFocalLoss, QualityFocalLoss, VarifocalLoss
from learndet.task_modules.losses.long_tail import SeesawLoss
from learndet.task_modules.losses.reduction import accuracy, reduce_loss, weight_reduce_loss
from loss_rows import K, ROWS, call, first, stacked

torch.set_num_threads(1)

BOX_LOSSES = [IoULoss(), IoULoss(mode='linear'), IoULoss(mode='square'), GIoULoss(), DIoULoss(), CIoULoss(), BoundedIoULoss(),
              EIoULoss(), SIoULoss(), SIoULoss(neg_gamma=True)]
OFFSET_LOSSES = [L1Loss(), MSELoss(), SmoothL1Loss(), SmoothL1Loss(beta=1 / 9), BalancedL1Loss(), GHMR()]
name = lambda loss: type(loss).__name__ + getattr(loss, 'mode', '') + ('neg' if getattr(loss, 'neg_gamma', False) else '')

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


@pytest.mark.parametrize('loss', [GIoULoss(), DIoULoss(), CIoULoss(), IoULoss(mode='linear'), EIoULoss(), SIoULoss(neg_gamma=True)], ids=name)
def test_box_losses_do_not_care_for_place_and_order(loss):
    pred, target = torch.tensor([[10., 10., 50., 30.]]), torch.tensor([[20., 5., 45., 40.]])
    value = loss(pred, target)
    torch.testing.assert_close(loss(pred + 7, target + 7), value, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(loss(4 * pred, 4 * target), value, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(loss(target, pred), value, rtol=1e-4, atol=1e-5)
    assert loss(pred.roll(1, 1)[:, [1, 0, 3, 2]], target) >= 0


@pytest.mark.parametrize('loss', [IoULoss(), GIoULoss(), DIoULoss(), BoundedIoULoss(), SmoothL1Loss(), MSELoss(), L1Loss(),
                                  EIoULoss(), SIoULoss(), SIoULoss(neg_gamma=True), BalancedL1Loss()], ids=name)
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


# ---- laws of all losses over rows

each_loss = pytest.mark.parametrize('kind', ROWS)


def seeded(seed): return torch.Generator().manual_seed(seed)


def weight_like(g, pred, n, by_row):
    "Positive numbers for the first n rows, 0 for the others."
    w = torch.rand(len(pred) if by_row else pred.shape, generator=g) + .1
    w[n:] = 0
    return w


@each_loss
@settings(max_examples=10, deadline=None)
@given(n=st.integers(0, 8), seed=st.integers(0, 1000), size=st.sampled_from([1., 100., 1e4]))
def test_every_loss_is_finite_and_not_negative(kind, n, seed, size):
    make, inputs, _ = ROWS[kind]
    pred, target = inputs(seeded(seed), n)
    pred = (pred if kind in ('arc', 'heatmap') else pred * size).requires_grad_()
    value = call(make(), pred, target, reduction_override='none')
    grad, = torch.autograd.grad(value.sum(), pred)
    assert value.isfinite().all() and grad.isfinite().all() and (value >= -1e-3 * min(size, 100.) / 100).all()


@each_loss
def test_every_loss_of_nothing_is_zero_and_connected(kind):
    make, inputs, _ = ROWS[kind]
    pred, target = inputs(seeded(0), 0)
    for reduction in ('mean', 'sum'):
        value = call(make(), pred.requires_grad_(), target, reduction_override=reduction)
        assert value == 0 and torch.autograd.grad(value, pred)[0].shape == pred.shape


@each_loss
@settings(max_examples=10, deadline=None)
@given(n=st.integers(1, 8), extra=st.integers(1, 8), seed=st.integers(0, 1000))
def test_rows_of_weight_zero_change_nothing(kind, n, extra, seed):
    "Whatever stands in them: the same value, the same gradient, none for themselves, and the same state afterwards."
    make, inputs, by_row = ROWS[kind]
    g = seeded(seed)
    pred, target = inputs(g, n)
    wild, garbage = inputs(g, extra)
    if kind not in ('arc', 'heatmap'): wild = wild * 1e3
    w = weight_like(g, torch.cat([pred, wild]), n, by_row)
    alone, padded = make(), make()
    a, b = pred.clone().requires_grad_(), torch.cat([pred, wild]).requires_grad_()
    expected = call(alone, a, target, w[:n], avg_factor=3.)
    value = call(padded, b, stacked(target, garbage), w, avg_factor=3.)
    torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-5)
    grad, = torch.autograd.grad(value, b)
    torch.testing.assert_close(grad[:n], torch.autograd.grad(expected, a)[0], rtol=1e-4, atol=1e-5)
    assert not grad[n:].any()
    for key, buffer in alone.state_dict().items(): torch.testing.assert_close(buffer, padded.state_dict()[key])


@each_loss
def test_reductions_of_every_loss_agree(kind):
    make, inputs, by_row = ROWS[kind]
    g = seeded(1)
    pred, target = inputs(g, 7)
    w = weight_like(g, pred, 7, by_row)
    value = lambda **kwargs: call(make(), pred, target, w, **kwargs)
    none, total = value(reduction_override='none'), value(reduction_override='sum')
    torch.testing.assert_close(none.sum(), total, rtol=1e-4, atol=1e-5)
    if 'GHM' not in kind: torch.testing.assert_close(value(avg_factor=4.), total / 4, rtol=1e-4, atol=1e-5)
    twice = make()
    twice.loss_weight = 2.
    torch.testing.assert_close(call(twice, pred, target, w), 2 * value())
    with pytest.raises(ValueError, match="'none', 'mean' or 'sum'"): value(reduction_override='average')


@each_loss
def test_gradients_of_every_loss(kind):
    if kind == 'seesaw': pytest.skip('its compensation is a constant of the step; the case without it is checked')
    make, inputs, _ = ROWS[kind]
    pred, target = inputs(seeded(3), 4)
    pred = pred.double().requires_grad_()
    target = tuple(t.double() if t.is_floating_point() else t for t in target) if isinstance(target, tuple) else \
        target.double() if target.is_floating_point() else target
    loss = make()
    loss(pred, target)
    loss.eval()                                                                     # counters stand still while it is measured
    assert gradcheck(lambda p: call(loss, p, target, reduction_override='sum'), (pred,), eps=1e-7, atol=1e-4)


@each_loss
def test_every_loss_is_computed_in_float32(kind):
    make, inputs, _ = ROWS[kind]
    pred, target = inputs(seeded(4), 5)
    for dtype in (torch.float16, torch.bfloat16): assert call(make(), pred.to(dtype), target).dtype == torch.float32


@each_loss
def test_every_loss_compiles_without_graph_breaks(kind):
    torch._dynamo.reset()
    make, inputs, by_row = ROWS[kind]
    g = seeded(5)
    pred, target = inputs(g, 6)
    w, eager, compiled = weight_like(g, pred, 4, by_row), make(), make()
    f = torch.compile(lambda p, t, w: call(compiled, p, t, w, avg_factor=w.sum()), fullgraph=True, dynamic=False, backend='eager')
    torch.testing.assert_close(f(pred, target, w), call(eager, pred, target, w, avg_factor=w.sum()))
    for key, buffer in eager.state_dict().items(): assert torch.equal(buffer, compiled.state_dict()[key])


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000))
def test_what_is_right_costs_nothing(seed):
    "Where the paper's loss has its zero: the quality itself, a sure answer, equal shapes, the teacher's own distribution."
    g = seeded(seed)
    label, score = torch.randint(K, (5,), generator=g), torch.rand(5, generator=g) * .98 + .01
    pred = torch.full((5, K), -40.)
    pred[range(5), label] = score.logit()
    sure = torch.full((5, K), -40.)
    sure[range(5), label] = 40.
    answers = torch.nn.functional.one_hot(label, K).float()
    assert QualityFocalLoss()(pred, (label, score)) < 1e-9
    assert VarifocalLoss()(sure, answers) < 1e-9 and GaussianFocalLoss()(answers, answers) < 1e-9
    assert DistributionFocalLoss()(sure, label.float()) < 1e-9
    assert KnowledgeDistillationKLDivLoss()(pred, pred) == 0 and DiceLoss(naive_dice=True)(sure, answers) < 1e-6
    assert DiceLoss()(sure, answers) < 1.1e-3                                       # its small number stands in the denominator alone
    exact = torch.randn(5, 4, generator=g).requires_grad_()
    for loss in (BalancedL1Loss(), GHMR()):
        value = loss(exact, exact.detach(), torch.ones(5, 4))
        assert value == 0 and not torch.autograd.grad(value, exact)[0].any()


@settings(max_examples=20, deadline=None)
@given(y=st.floats(0, 8, width=32))
@example(y=8.)
@example(y=3.)
def test_a_distribution_is_best_where_it_shares_between_the_neighbours(y):
    target, left = torch.tensor([y]), min(int(y), 7)
    best = torch.full((1, 9), -30.)
    best[0, left], best[0, left + 1] = torch.tensor([left + 1 - y, y - left]).clamp(min=1e-9).log()
    loss = DistributionFocalLoss()
    for seed in range(5): assert loss(best, target) <= loss(best + torch.randn(1, 9, generator=seeded(seed)), target) + 1e-5
    assert abs((best.softmax(1) * torch.arange(9)).sum().item() - y) < 1e-3


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), bins=st.integers(1, 30))
def test_every_kind_of_answer_has_the_same_say(seed, bins):
    "GHM: weights sum to the number of elements, and each bin in use has the same share."
    g = seeded(seed)
    gradients, valid = torch.rand(20, 3, generator=g), torch.rand(20, 3, generator=g) < .8
    valid[0, 0] = True
    loss = GHMC(bins=bins)
    w = loss.weights(gradients, valid, valid.sum())
    torch.testing.assert_close(w.sum(), valid.sum().float(), rtol=1e-4, atol=1e-3)
    assert not w[~valid].any()
    shares = [w[valid & ((gradients * bins).long() == i)].sum() for i in range(bins)]
    used = [s for s in shares if s > 0]
    assert max(used) / min(used) < 1.001 or bins > 9                                # an edge such as 3/30 is not the same number twice


def test_balanced_l1_never_pulls_harder_than_gamma():
    d = torch.linspace(-50, 50, 1001, requires_grad=True)
    for gamma in (1., 1.5, 3.):
        grad, = torch.autograd.grad(BalancedL1Loss(gamma=gamma, reduction='sum')(d, torch.zeros(1001)), d)
        assert grad.abs().max() <= gamma * 1.0001 and (grad * d >= 0).all()


def test_seesaw_is_softmax_when_classes_are_even_and_right():
    loss = SeesawLoss(num_classes=3, return_dict=False)
    scores, labels = torch.tensor([[5., 0., 0., 9., 0.], [0., 5., 0., 9., 0.], [0., 0., 5., 9., 0.]]), torch.tensor([0, 1, 2])
    expected = cross_entropy(scores[:, :3], labels) + cross_entropy(scores[:, 3:], torch.zeros(3, dtype=torch.long))
    torch.testing.assert_close(loss(scores, labels), expected)


def test_labels_out_of_range_belong_to_no_class():
    "A label of -1 or beyond K costs what background costs, and never reads past the end."
    g = seeded(0)
    scores, quality = torch.randn(2, K, generator=g), torch.rand(2, generator=g)
    for odd in (-1, K + 3):
        for loss, wrap in ((QualityFocalLoss(), lambda l: (l, quality)), (GHMC(), lambda l: l)):
            torch.testing.assert_close(loss(scores, wrap(torch.tensor([0, odd]))), loss(scores, wrap(torch.tensor([0, K]))))
        seesaw = lambda label: SeesawLoss(num_classes=K - 2, return_dict=False)(scores, torch.tensor([0, label]))
        torch.testing.assert_close(seesaw(odd), seesaw(K - 2))


@pytest.mark.parametrize('p, focal_value, ce_value', [(.9, 2.634e-4, .10536), (.5, .04332, .69315), (.1, .46627, 2.30259)])
def test_three_numbers_of_focal_loss(p, focal_value, ce_value):
    "Gamma 2, alpha 0.25: a yes said with 90, 50 and 10 %, and what cross entropy asks for it."
    logit = torch.tensor([[p]]).logit()
    assert abs(FocalLoss()(logit, torch.tensor([0])).item() - focal_value) < 1e-5
    assert abs(CrossEntropyLoss(use_sigmoid=True)(logit, torch.tensor([0])).item() - ce_value) < 1e-5
