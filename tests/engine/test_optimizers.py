"Optimizer wrappers: the plain loop, accumulation, clipping, half precision, groups; and nothing moves on a broken loss."
import copy
import json
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import nn

from learndet.engine import optimizers as op
from learndet.engine.ema import ExponentialMovingAverage
from learndet.engine.optimizers import AmpOptimWrapper, OptimWrapper, auto_scale_lr, build_optim_wrapper, build_optimizer, can_skip_on_device

GOLDEN = json.loads(Path(__file__).with_name('golden_mmengine.json').read_text())


def net(seed=0, norm=True):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8) if norm else nn.Identity(), nn.ReLU(), nn.Linear(8, 1))


def loss_of(model, x): return (model(x).float() - x.float().sum(1, keepdim=True)).square().mean()


def step(wrapper, model, x):
    with wrapper.optim_context(model): loss = loss_of(model, x)
    wrapper.update_params(loss)
    return loss


def bits(*things): return [copy.deepcopy(t.state_dict()) for t in things]


def equal(a, b):
    if isinstance(a, torch.Tensor): return torch.equal(a, b)
    if isinstance(a, dict): return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)): return len(a) == len(b) and all(map(equal, a, b))
    return a == b


KINDS = {'SGD': dict(lr=.05, momentum=.9, weight_decay=1e-3), 'AdamW': dict(lr=.01, weight_decay=.05), 'Adam': dict(lr=.01), 'RMSprop': dict(lr=.01)}


@pytest.mark.parametrize('kind', KINDS)
def test_without_extras_it_is_the_plain_loop(kind):
    torch.manual_seed(1); batches = torch.randn(6, 8, 4)
    a, b = net(), net()
    fused = dict(fused=True) if kind != 'RMSprop' else {}
    opt = getattr(torch.optim, kind)(a.parameters(), **KINDS[kind], **fused)
    wrapper = build_optim_wrapper(b, dict(type='OptimWrapper', optimizer=dict(type=kind, **KINDS[kind])))
    for x in batches:
        loss_of(a, x).backward(); opt.step(); opt.zero_grad()
        step(wrapper, b, x)
    assert equal(*bits(a, b)) and can_skip_on_device(wrapper.optimizer) == (kind != 'RMSprop')


@given(n=st.integers(1, 5), steps=st.integers(1, 9), seed=st.integers(0, 9))
@settings(max_examples=25, deadline=None)
def test_accumulated_small_batches_are_large_ones(n, steps, seed):
    "Also the last group, when the number of batches does not divide."
    torch.manual_seed(seed); x = torch.randn(steps, 2, 4)
    small, large = net(seed, norm=False), net(seed, norm=False)
    wrapper = OptimWrapper(torch.optim.SGD(small.parameters(), .05), accumulative_counts=n)
    wrapper.initialize_count_status(small, 0, steps)
    for batch in x: step(wrapper, small, batch)
    opt = torch.optim.SGD(large.parameters(), .05)
    for i in range(0, steps, n): loss_of(large, x[i:i + n].flatten(0, 1)).backward(); opt.step(); opt.zero_grad()
    assert all(torch.allclose(p, q, atol=1e-5) for p, q in zip(small.parameters(), large.parameters()))


BROKEN = {'loss is NaN': lambda m, x: loss_of(m, x * math.nan), 'loss is inf': lambda m, x: loss_of(m, x) * math.inf,
          'gradient is NaN, loss is not': lambda m, x: loss_of(m, x) + (m[0].weight - m[0].weight.detach()).square().sum().sqrt(),
          'one weight': lambda m, x: loss_of(m, x) + 0 * (m[0].weight[0, 0] * 0).sqrt()}


@pytest.mark.parametrize('why', BROKEN)
@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('n', [1, 2])
def test_broken_loss_changes_nothing(why, kind, n):
    "3c: weights, moments, counters, running statistics and averages are the same bits."
    torch.manual_seed(2); batches = torch.randn(9, 8, 4)
    model = net(); average = ExponentialMovingAverage(model, .1)
    wrapper = build_optim_wrapper(model, dict(optimizer=dict(type=kind, **KINDS[kind]), accumulative_counts=n))
    for x in batches[:4]: step(wrapper, model, x); average.update_parameters(model, skip=wrapper.non_finite)
    before = bits(model, wrapper, average)
    with wrapper.optim_context(model): loss = BROKEN[why](model, batches[4])
    wrapper.update_params(loss); average.update_parameters(model, skip=wrapper.non_finite if n == 1 else True)
    for x in batches[5:5 + n]: step(wrapper, model, x); average.update_parameters(model, skip=wrapper.non_finite)
    assert not wrapper.poll_finite() and equal(before, bits(model, wrapper, average))
    if n == 1:
        wrapper.reset_non_finite(); step(wrapper, model, batches[8])
        assert wrapper.poll_finite() and not equal(before[:1], bits(model))


def test_frozen_norms_cost_nothing():
    model = net().eval(); wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), .1))
    with wrapper.optim_context(model): assert wrapper._saved == ()
    model.train()
    with wrapper.optim_context(model): assert len(wrapper._saved[0]) == 2


class FusedLike(torch.optim.Optimizer):
    "Stands for a fused optimizer on a device: it gets the verdict as a tensor."
    _step_supports_amp_scaling = True
    def step(self): assert self.found_inf.shape == () and self.found_inf.is_meta


def test_nobody_waits_for_the_device():
    "3d: tensors without data, on a device that is not the CPU; any question of the host would be an error."
    with torch.device('meta'): model = net()
    average = ExponentialMovingAverage(model, .1, update_buffers=True)
    for cls, kw in ((OptimWrapper, {}), (OptimWrapper, dict(clip_grad=dict(max_norm=1.))), (AmpOptimWrapper, dict(clip_grad=dict(max_norm=1.), device_type='cpu'))):
        wrapper = cls(FusedLike(model.parameters(), dict(lr=.1, fused=True)), **kw)
        for _ in range(3):
            step(wrapper, model, torch.randn(6, 4, device='meta'))
            average.update_parameters(model, skip=wrapper.non_finite)
        with pytest.raises(RuntimeError, match='meta'): wrapper.poll_finite()


@pytest.mark.parametrize('kind', ['norm', 'value'])
def test_clipping_is_torchs(kind):
    a, b = net(), net(); x = 30 * torch.randn(8, 4)
    loss_of(a, x).backward(); opt = torch.optim.SGD(a.parameters(), .1)
    norm = nn.utils.get_total_norm([p.grad for p in a.parameters()])
    if kind == 'norm': nn.utils.clip_grad_norm_(a.parameters(), 35, 2)
    else: nn.utils.clip_grad_value_(a.parameters(), .1)
    opt.step()
    given_cfg = dict(max_norm=35, norm_type=2) if kind == 'norm' else dict(type='value', clip_value=.1)
    wrapper = OptimWrapper(torch.optim.SGD(b.parameters(), .1), clip_grad=given_cfg); step(wrapper, b, x)
    assert equal(*bits(a, b)) and torch.equal(wrapper.grad_norm, norm) and given_cfg.get('type', 'norm') == kind     # the config is not changed


def test_half_precision_learns_and_resumes():
    torch.manual_seed(3); batches = torch.randn(30, 8, 4)
    for dtype in ('bfloat16', torch.float16):
        model = net(norm=False); wrapper = AmpOptimWrapper(torch.optim.SGD(model.parameters(), .05, momentum=.9), dtype=dtype, clip_grad=dict(max_norm=5.))
        losses = [step(wrapper, model, x).item() for x in batches]
        assert losses[-1] < losses[0] / 2 and wrapper.poll_finite() and all(p.dtype == torch.float32 for p in model.parameters())
        twin = net(norm=False); other = AmpOptimWrapper(torch.optim.SGD(twin.parameters(), .05, momentum=.9), dtype=dtype, clip_grad=dict(max_norm=5.))
        twin.load_state_dict(copy.deepcopy(model.state_dict())); other.load_state_dict(copy.deepcopy(wrapper.state_dict()))
        for x in batches[:3]: step(wrapper, model, x); step(other, twin, x)
        assert equal(*bits(model, twin)) and equal(*bits(wrapper, other))


def test_an_overflow_of_float16_is_no_alarm_but_a_nan_is():
    model = net(); wrapper = AmpOptimWrapper(torch.optim.SGD(model.parameters(), .05), dtype='float16', loss_scale=dict(init_scale=2. ** 126))
    before = bits(model[0], model[3]); step(wrapper, model, 1e4 * torch.randn(8, 4))
    assert wrapper.poll_finite() and equal(before, bits(model[0], model[3])) and wrapper.scaler.get_scale() == 2. ** 125
    step(wrapper, model, torch.full((8, 4), math.nan))
    assert not wrapper.poll_finite()
    before = bits(model); step(wrapper, model, torch.randn(8, 4)); assert equal(before, bits(model))


def golden_model():
    "The model of make_golden_mmengine.py, which needs mmengine to be imported."
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone = nn.ModuleDict(dict(conv=nn.Conv2d(4, 4, 3), norm=nn.BatchNorm2d(4), dw=nn.Conv2d(4, 4, 3, groups=4)))
            self.neck = nn.ModuleDict(dict(gn=nn.GroupNorm(2, 4), ln=nn.LayerNorm(4), frozen=nn.Linear(4, 4)))
            self.neck['frozen'].weight.requires_grad = False
            self.head, self.scale = nn.Conv2d(4, 2, 1), nn.Parameter(torch.ones(3))
    return Model()


@pytest.mark.parametrize('case', GOLDEN['groups'], ids=lambda c: '-'.join(c['rule']))
def test_groups_are_mmengines(case):
    wrapper = build_optim_wrapper(golden_model(), dict(optimizer=dict(type='SGD', lr=.02, weight_decay=1e-4), paramwise_cfg=case['rule']))
    got = {n: [g['lr'], g['weight_decay']] for g in wrapper.param_groups for n in g['param_names']}
    assert got.pop('neck.frozen.weight') == [.02, 1e-4]                 # kept, so that it can be unfrozen later; MMEngine leaves it out
    assert got == case['groups'] and len(wrapper.param_groups) <= 5


def test_layer_wise_decay():
    model = nn.ModuleDict(dict(backbone=nn.ModuleDict(dict(stages=nn.ModuleList(nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1)) for _ in range(4)))), head=nn.Linear(1, 1)))
    for kind, depth in (('layer_wise', [1, 2, 3, 6]), ('stage_wise', [1, 2, 3, 4])):
        wrapper = build_optim_wrapper(model, dict(optimizer=dict(type='AdamW', lr=1., weight_decay=.1), constructor='LearningRateDecayOptimizerConstructor',
                                                  paramwise_cfg=dict(num_layers=6, decay_rate=.5, decay_type=kind)))
        got = {n: (g['lr'], g['weight_decay']) for g in wrapper.param_groups for n in g['param_names']}
        assert [got[f'backbone.stages.{i}.0.weight'] for i in range(4)] == [(.5 ** (7 - d), .1) for d in depth]
        assert got['head.weight'] == (1., .1) and got['head.bias'] == (1., 0.)


def test_scaling():
    for lr, base, batch, want in ((.01, 8, 64, .08), (.02, 16, 2, .0025), (.02, 16, 8, .01), (.02, 16, 16, .02)):                  # NUM-16, OPT-2
        wrapper = build_optim_wrapper(net(), dict(optimizer=dict(type='SGD', lr=lr)))
        line = auto_scale_lr(wrapper, dict(enable=True, base_batch_size=base), batch)
        assert wrapper.get_lr()['lr'] == [pytest.approx(want, rel=1e-12)] and f'batch size {batch} / base batch size {base}' in line
    for rule in (None, {}, dict(enable=False, base_batch_size=16)):
        assert auto_scale_lr(wrapper, rule, 99).startswith('Automatic scaling of learning rate (LR) has been disabled') and wrapper.get_lr()['lr'] == [.02]
    from learndet.engine.schedules import LinearLR
    LinearLR(wrapper, end=5)
    with pytest.raises(RuntimeError, match='before schedules'): auto_scale_lr(wrapper, dict(enable=True, base_batch_size=1), 2)


def test_optimizers_by_name():
    for kind, kw in (('SGD', dict(momentum=.9, weight_decay=1e-4)), ('Adam', {}), ('AdamW', dict(eps=1e-8, betas=(.9, .999))), ('Adagrad', {}), ('RMSprop', {}), ('NAdam', {})):
        wrapper = build_optim_wrapper(net(), dict(optimizer=dict(type=kind, lr=.01, **kw)))
        assert type(wrapper.optimizer).__name__ == kind
    assert not can_skip_on_device(build_optimizer(list(net().parameters()), dict(type='SGD', lr=.1, foreach=True)))
    assert build_optim_wrapper(net(), wrapper) is wrapper
    for cfg, words in ((dict(optimizer=dict(type='AdamV', lr=1)), "'AdamV'.*nearest: Adam"), (dict(optimizer=dict(type='SGD', l=1)), r'optim_wrapper.optimizer.l: SGD has no argument'),
                       (dict(optimizer=dict(type='SGD', lr=.1), clip_gard=1), 'optim_wrapper.clip_gard.*clip_grad'), ({}, 'needs a type')):
        with pytest.raises((ValueError, LookupError, TypeError), match=words): build_optim_wrapper(net(), cfg)


def test_processes_exchange_gradients_only_before_a_step():
    class Parallel(nn.Module):
        def __init__(self, module): super().__init__(); self.module, self.quiet = module, []
        def forward(self, x): self.quiet.append(self.silent); return self.module(x)
        silent = False
        def no_sync(self):
            from contextlib import contextmanager
            @contextmanager
            def silence(): self.silent = True; yield; self.silent = False
            return silence()
    model = Parallel(net()); wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), .1), accumulative_counts=3)
    wrapper.initialize_count_status(model, 0, 8)
    for x in torch.randn(8, 4, 4): step(wrapper, model, x)
    assert model.quiet == [True, True, False, True, True, False, True, False]


def test_state_of_plain_wrapper_is_the_optimizers():
    model = net(); wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), .1, momentum=.9)); step(wrapper, model, torch.randn(4, 4))
    other = OptimWrapper(torch.optim.SGD(net().parameters(), .2, momentum=.9)); other.load_state_dict(wrapper.state_dict())
    assert equal(wrapper.state_dict(), other.state_dict()) and other.get_lr() == dict(lr=[.1]) and other.get_momentum() == dict(momentum=[.9])
    assert op.OptimWrapper(torch.optim.AdamW(net().parameters(), betas=(.8, .9))).get_momentum() == dict(momentum=[.8])
