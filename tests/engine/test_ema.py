"Averaged weights: the closed form, buffers, skipping, and that nobody waits for a device."
import copy

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import nn

from learndet.engine.ema import ExpMomentumEMA, ExponentialMovingAverage, StochasticWeightAverage


def net(): return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
def shake(model):
    for p in model.parameters(): p.data += torch.randn_like(p)


@given(momentum=st.floats(1e-4, .5), steps=st.integers(1, 40), seed=st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_num_24(momentum, steps, seed):
    torch.manual_seed(seed)
    student = nn.Linear(3, 2).double(); teacher = ExponentialMovingAverage(student, momentum)
    teacher.update_parameters(student)
    t0 = student.weight.detach().clone(); shake(student)
    for _ in range(steps): teacher.update_parameters(student)
    kept = (1 - momentum) ** steps
    assert torch.allclose(teacher.module.weight, kept * t0 + (1 - kept) * student.weight, rtol=0, atol=1e-12)


@pytest.mark.parametrize('make', [lambda m, **k: ExponentialMovingAverage(m, .1, **k), lambda m, **k: ExpMomentumEMA(m, .1, gamma=5, **k), lambda m, **k: StochasticWeightAverage(m, **k)])
@pytest.mark.parametrize('interval', [1, 3])
@pytest.mark.parametrize('buffers', [False, True])
def test_many_at_once_is_one_by_one(make, interval, buffers):
    torch.manual_seed(0)
    model = net(); average = make(model, interval=interval, update_buffers=buffers)
    slow = {k: v.clone() for k, v in model.state_dict().items()}
    for t in range(8):
        shake(model); model(torch.randn(5, 3))
        average.update_parameters(model)
        for k, v in model.state_dict().items():
            is_buffer = 'running' in k or 'num_batches' in k
            if is_buffer and not (buffers and v.is_floating_point()) or t == 0: slow[k] = v.clone()
            elif t % interval == 0: slow[k] = slow[k] + average.weight(t) * (v - slow[k])
    for k, v in average.module.state_dict().items(): assert torch.allclose(v.float(), slow[k].float(), atol=1e-6), k
    assert int(average.steps) == average.calls == 8 and not any(p.requires_grad for p in average.parameters())


@pytest.mark.parametrize('buffers', [False, True])
def test_skip_leaves_every_bit(buffers):
    model = net(); average = ExpMomentumEMA(model, .01, update_buffers=buffers)
    for _ in range(3): shake(model); average.update_parameters(model)
    before = copy.deepcopy(average.state_dict())
    shake(model); model(torch.randn(5, 3))
    for skip in (True, torch.tensor(True)): average.update_parameters(model, skip=skip)
    assert all(torch.equal(v, before[k]) for k, v in average.state_dict().items()) and average.calls == 3
    twin = copy.deepcopy(average)
    average.update_parameters(model); twin.update_parameters(model, skip=torch.tensor(False))
    assert all(torch.equal(v, twin.state_dict()[k]) for k, v in average.state_dict().items())


def test_resuming_is_exact():
    model = net(); a = ExpMomentumEMA(model, .01, gamma=7)
    for _ in range(5): shake(model); a.update_parameters(model)
    b = ExpMomentumEMA(net(), .01, gamma=7); b.load_state_dict(a.state_dict())
    for _ in range(3):
        shake(model)
        for x in (a, b): x.update_parameters(model)
    assert all(torch.equal(v, b.state_dict()[k]) for k, v in a.state_dict().items()) and b.calls == 8


def test_wrapped_model_and_faults():
    class DistributedDataParallel(nn.Module):
        def __init__(self, module): super().__init__(); self.module = module
    model = net(); average = ExponentialMovingAverage(model)
    average.update_parameters(DistributedDataParallel(model))
    assert average.calls == 1 and average(torch.ones(2, 3)).shape == (2, 2)
    for make, words in ((lambda: ExponentialMovingAverage(model, 0.), 'between 0 and 1'), (lambda: ExpMomentumEMA(model, gamma=0), 'gamma'),
                        (lambda: ExponentialMovingAverage(model, interval=0), 'interval'), (lambda: average.update_parameters(nn.Linear(1, 1)), 'other parameters')):
        with pytest.raises(ValueError, match=words): make()
