"""The same values and gradients as MMDetection 3.3's losses, over two hundred random cases each.

Where MMDetection is installed (LEARNDET_MMDET names the folder) both run side by side; elsewhere a few stored numbers,
made by `make_mmdet_golden_losses.py`, are compared. Deliberate differences have tests of their own at the end.
"""
import json
import types
from pathlib import Path

import pytest
import torch

from learndet.task_modules.losses import (cross_entropy, focal, gaussian_focal, gradient_harmonizing, iou_losses, l1, long_tail,
                                          masks_and_distillation, more_box_losses, quality_losses, reduction)
from loss_cases import CASES, boxes, run
from mmdet_reference import available, load

torch.set_num_threads(1)

OURS = types.SimpleNamespace()
for module in (reduction, cross_entropy, focal, l1, iou_losses, quality_losses, gaussian_focal, gradient_harmonizing, long_tail,
               more_box_losses, masks_and_distillation):
    vars(OURS).update({name: getattr(module, name) for name in module.__all__})
GOLDEN = json.loads((Path(__file__).parent / 'golden_losses.json').read_text())
needs_mmdet = pytest.mark.skipif(not available(), reason='MMDetection 3.3 is not installed (LEARNDET_MMDET names its folder)')

CLOSE = dict(rtol=1e-4, atol=1e-5)


@pytest.fixture(scope='module')
def theirs():
    load()
    from mmdet.models import losses
    return losses


@needs_mmdet
@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('name', CASES)
def test_equal_over_two_hundred_cases(theirs, name):
    close = lambda a, b, what: torch.testing.assert_close(a, b, **CLOSE, msg=lambda m: f'{name}, {what}: {m}')
    for seed in range(200):
        (mine, my_state), (yours, your_state) = run(OURS, name, seed), run(theirs, name, seed)
        for step, ((a, a_grad), (b, b_grad)) in enumerate(zip(mine, yours, strict=True)):
            for x, y in zip(a, b, strict=True): close(x, y, f'seed {seed}, call {step}')
            close(a_grad, b_grad, f'gradient, seed {seed}, call {step}')
        assert my_state.keys() == your_state.keys()
        for key in my_state: close(my_state[key], your_state[key], f'state {key}, seed {seed}')


@pytest.mark.parametrize('name', CASES)
def test_equal_to_stored_numbers(name):
    for seed, expected in enumerate(GOLDEN[name]):
        results, _ = run(OURS, name, seed)
        mine = [v for terms, grad in results for v in (sum(t.sum() for t in terms), grad.sum(), grad.abs().sum())]
        torch.testing.assert_close(torch.stack(mine), torch.tensor(expected), rtol=1e-3, atol=1e-4)


@needs_mmdet
def test_accuracy(theirs):
    for seed in range(200):
        g = torch.Generator().manual_seed(seed)
        N, K = int(torch.randint(0, 9, (), generator=g)), int(torch.randint(5, 8, (), generator=g))
        pred, target = torch.rand(N, K, generator=g), torch.randint(K, (N,), generator=g)
        for topk in (1, (1,), (1, 3, 5)):
            for thresh in (None, .6):
                mine, yours = OURS.Accuracy(topk, thresh)(pred, target), theirs.Accuracy(topk, thresh)(pred, target)
                if isinstance(topk, int): mine, yours = [mine], [yours]
                torch.testing.assert_close(torch.stack([m.reshape(()) for m in mine]), torch.stack([y.reshape(()) for y in yours]))


@needs_mmdet
def test_what_heads_ask_of_seesaw(theirs):
    for seed in range(50):
        g = torch.Generator().manual_seed(seed)
        K, N = 4, int(torch.randint(0, 9, (), generator=g))
        scores, labels = torch.randn(N, K + 2, generator=g), torch.randint(K + 1, (N,), generator=g)
        mine, yours = OURS.SeesawLoss(num_classes=K), theirs.SeesawLoss(num_classes=K)
        assert mine.get_cls_channels(K) == yours.get_cls_channels(K) == 6
        assert all(getattr(mine, f'custom_{what}') for what in ('cls_channels', 'activation', 'accuracy'))
        torch.testing.assert_close(mine.get_activation(scores), yours.get_activation(scores))
        for key, value in yours.get_accuracy(scores, labels).items():
            torch.testing.assert_close(mine.get_accuracy(scores, labels)[key].reshape(()), value.reshape(()))


@needs_mmdet
def test_constructors_take_the_same_arguments_in_the_same_order(theirs):
    import inspect
    for name in sorted({CASES[case](torch.Generator().manual_seed(0), 0)[0] for case in CASES} | {'Accuracy'}):
        mine, yours = ([(p.name, p.default) for p in list(inspect.signature(getattr(space, name)).parameters.values())] for space in (OURS, theirs))
        assert mine == yours, name


# ---- deliberate differences

@needs_mmdet
@pytest.mark.filterwarnings('ignore')
def test_where_theirs_is_nan_ours_is_finite(theirs):
    "Equal boxes in CIoU, two points in SIoU: 0 over 0 there."
    box, point = torch.tensor([[0., 0., 10., 10.]]), torch.zeros(1, 4)
    cases = [('CIoULoss', {}, torch.tensor([[0., 0., 1e-4, 1e-4]])), ('SIoULoss', {}, point)]
    for name, options, pair in cases:
        x = pair.clone().requires_grad_()
        value = getattr(OURS, name)(**options)(x, pair)
        assert value.isfinite() and torch.autograd.grad(value, x)[0].isfinite().all(), name
    x = point.clone().requires_grad_()
    yours = theirs.SIoULoss()(x, point)
    assert not torch.autograd.grad(yours, x)[0].isfinite().all()


@needs_mmdet
def test_the_largest_distance_is_a_target(theirs):
    "Theirs reads past the end of the distribution; ours takes the last two numbers."
    logits, n = torch.randn(1, 9), torch.tensor([8.])
    with pytest.raises(IndexError): theirs.DistributionFocalLoss()(logits, n)
    torch.testing.assert_close(OURS.DistributionFocalLoss()(logits, n), -logits.log_softmax(1)[0, 8])


@needs_mmdet
def test_watching_does_not_count(theirs):
    "In evaluation their counters move on, so a validation loss changes the training that follows."
    scores, labels = torch.randn(6, 6), torch.tensor([0, 1, 2, 3, 4, 4])
    for name, options, args in (('SeesawLoss', dict(num_classes=4), (scores, labels)),
                                ('GHMC', dict(momentum=.5), (scores[:, :4], labels, torch.ones(6)))):
        mine, yours = getattr(OURS, name)(**options).eval(), getattr(theirs, name)(**options).eval()
        before = {k: v.clone() for k, v in mine.state_dict().items()}
        mine(*args), yours(*args)
        assert all(torch.equal(v, before[k]) for k, v in mine.state_dict().items())
        assert not all(torch.equal(v, before[k]) for k, v in yours.state_dict().items())


@needs_mmdet
def test_rows_of_weight_zero_are_not_counted(theirs):
    "Padding is a row of weight 0; theirs has no padding, and counts every row."
    scores, labels, weight = torch.randn(4, 5), torch.tensor([0, 1, 3, 3]), torch.tensor([1., 0., 1., 0.])
    mine, yours = OURS.SeesawLoss(num_classes=3), theirs.SeesawLoss(num_classes=3)
    mine(scores, labels, weight), yours(scores, labels, weight)
    assert mine.cum_samples.tolist() == [1, 0, 0, 1] and yours.cum_samples.tolist() == [1, 1, 0, 2]


@needs_mmdet
def test_equalization_loss_has_weights_too(theirs):
    "Theirs drops the weight, the reduction and avg_factor; scores for testing are the same."
    scores, labels, weight = torch.randn(4, 4), torch.tensor([0, 1, 3, 3]), torch.tensor([1., 0., 1., 0.])
    mine, yours = OURS.EQLV2Loss(num_classes=3), theirs.EQLV2Loss(num_classes=3)
    assert torch.equal(yours(scores, labels, weight, reduction_override='none'), theirs.EQLV2Loss(num_classes=3)(scores, labels))
    each = OURS.EQLV2Loss(num_classes=3)(scores, labels, reduction_override='none')
    torch.testing.assert_close(mine(scores, labels, weight, avg_factor=2.), each[::2].sum() / 2)
    torch.testing.assert_close(mine.get_activation(scores), yours.get_activation(scores.clone()))
    assert mine.get_channel_num(3) == yours.get_channel_num(3)


@needs_mmdet
def test_every_reduction_works_everywhere(theirs):
    "Theirs refuses 'sum' for GHM and all but 'mean' for masks, and drops background rows from seesaw's 'none'."
    scores, labels = torch.randn(6, 4), torch.tensor([0, 1, 2, 3, 4, 4])
    with pytest.raises(ValueError): theirs.GHMC()(scores, labels, torch.ones(6), reduction_override='sum')
    each = OURS.GHMC()(scores, labels, torch.ones(6), reduction_override='none')
    torch.testing.assert_close(OURS.GHMC()(scores, labels, torch.ones(6), reduction_override='sum'), each.sum())
    masks, truth = torch.randn(2, 3, 4, 4), torch.ones(2, 4, 4)
    with pytest.raises(AssertionError): theirs.CrossEntropyLoss(use_mask=True)(masks, truth, labels[:2], reduction_override='sum')
    assert OURS.CrossEntropyLoss(use_mask=True)(masks, truth, labels[:2], reduction_override='none').shape == (2,)
    wide = torch.randn(6, 6)
    mine, yours = (space.SeesawLoss(num_classes=4)(wide, labels, reduction_override='none')['loss_cls_classes'] for space in (OURS, theirs))
    torch.testing.assert_close(mine[:4], yours)
    assert mine.shape == (6,) and not mine[4:].any() and yours.shape == (4,)


def test_there_is_no_arc_loss_in_mmdetection():
    "LOSS-17 lists one; 3.3 has none, so ours follows ArcFace: angle plus margin, scaled, cross entropy."
    if available():
        load()
        from mmdet.models import losses
        assert not hasattr(losses, 'ArcLoss')
    g = torch.Generator().manual_seed(0)
    cosines, labels = torch.rand(20, 5, generator=g) * 1.6 - .8, torch.randint(5, (20,), generator=g)
    angles = cosines.double().acos()
    angles[range(20), labels] += .5
    expected = torch.nn.functional.cross_entropy(64 * angles.cos(), labels, reduction='none').float()
    torch.testing.assert_close(OURS.ArcLoss()(cosines, labels, reduction_override='none'), expected, rtol=1e-3, atol=1e-3)
