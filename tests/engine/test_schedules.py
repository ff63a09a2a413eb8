"Schedules: MMEngine's values to the last bit, and exact resuming."
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import nn

from learndet.engine import schedules as sc
from learndet.engine.schedules import (CosineAnnealingLR, LinearLR, MultiStepLR, QuadraticWarmupLR, build_schedulers, iters_from_epochs, plot_schedule,
                                       schedule_curve)

GOLDEN = json.loads(Path(__file__).with_name('golden_mmengine.json').read_text())


def optimizer_of(adam=False, lr=.02):
    ps = [nn.Parameter(torch.zeros(1)) for _ in range(2)]
    groups = [dict(params=[ps[0]]), dict(params=[ps[1]], lr=.3)]
    return torch.optim.AdamW(groups, lr) if adam else torch.optim.SGD(groups, lr, momentum=.9)


def values_of(opt): return [g['lr'] for g in opt.param_groups] + [sc.get_param(g, 'momentum') for g in opt.param_groups]


def walk(opt, pieces, n):
    out = []
    for _ in range(n):
        out.append(values_of(opt))
        for piece in pieces: piece.step()
    return out


@pytest.mark.parametrize('case', GOLDEN['schedules'], ids=lambda c: '+'.join(x['type'] for x in c['cfgs']) + ('-adam' if c['adam'] else ''))
def test_values_are_mmengines(case):
    opt = optimizer_of(case['adam'])
    assert walk(opt, build_schedulers(opt, case['cfgs']), len(case['values'])) == case['values']


@pytest.mark.parametrize('case', GOLDEN['schedules'][::2], ids=lambda c: '+'.join(x['type'] for x in c['cfgs']))
@pytest.mark.parametrize('stop', [1, 5, 11])
def test_resuming_is_exact(case, stop):
    opt = optimizer_of(); pieces = build_schedulers(opt, case['cfgs'])
    first = walk(opt, pieces, stop)
    saved = opt.state_dict(), json.loads(json.dumps([p.state_dict() for p in pieces]))
    opt = optimizer_of(); pieces = build_schedulers(opt, case['cfgs'])
    opt.load_state_dict(saved[0])
    for p, s in zip(pieces, saved[1]): p.load_state_dict(s)
    assert first + walk(opt, pieces, len(case['values']) - stop) == case['values']


def test_mmengines_own_state_loads():
    opt = optimizer_of(); piece = LinearLR(opt, end=5)
    piece.load_state_dict(dict(last_step=3, _global_step=3, base_values=[.02, .3], begin=0))
    assert (piece.last_step, piece.global_step) == (3, 3)


@given(base=st.floats(.001, 1), T=st.integers(2, 60), share=st.floats(0, .9))
@settings(max_examples=60, deadline=None)
def test_cosine_is_its_closed_form(base, T, share):
    curve = schedule_curve(dict(type=CosineAnnealingLR, T_max=T, eta_min=base * share), base, T + 1, 1)
    want = [base * share + .5 * base * (1 - share) * (1 + math.cos(math.pi * t / T)) for t in range(T + 1)]
    assert np.allclose(curve, want, rtol=0, atol=1e-9 * base)
    if T % 2 == 0: assert abs(curve[T // 2] - base * (1 + share) / 2) < 1e-9             # NUM-27


@given(base=st.floats(.001, 1), n=st.integers(1, 60), begin=st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_quadratic_warm_up_ends_at_the_base(base, n, begin):
    curve = schedule_curve(dict(type=QuadraticWarmupLR, begin=begin, end=begin + n), base, begin + n + 2, 1)
    assert np.allclose(curve[begin:begin + n], base * (np.arange(1, n + 1) / n) ** 2, rtol=1e-9) and np.allclose(curve[begin + n:], base)


@given(st.floats(.001, 1), st.integers(2, 99), st.integers(0, 20))
@settings(max_examples=60, deadline=None)
def test_warm_up_never_passes_the_rate_and_leaves_it(base, n, begin):
    curve = schedule_curve(dict(type=LinearLR, start_factor=.001, begin=begin, end=begin + n), base, begin + n + 3, 1)
    assert (np.diff(curve[begin:begin + n]) > 0).all() and np.allclose(curve[begin + n - 1:], base) and np.allclose(curve[begin], base * .001)


def test_1x_2x_20e():
    from learndet.engine.config import schedule_from_name
    for token, falls in (('1x', (8, 11)), ('2x', (16, 22)), ('20e', (16, 19))):
        train_cfg, pieces = schedule_from_name(f'x_y_{token}_coco', warmup=20)
        curve = schedule_curve(pieces, .02, train_cfg['max_epochs'], 50)
        assert tuple(np.flatnonzero(np.diff(curve[20:]) < -1e-9) + 21) == tuple(50 * f for f in falls) and np.isclose(curve[0], .00002)


def test_converted_to_iterations():
    cfg = dict(type='CosineAnnealingLR', T_max=3, begin=1, end=4, by_epoch=True, convert_to_iter_based=True)
    (piece,) = build_schedulers(optimizer_of(), cfg, 10)
    assert (piece.begin, piece.end, piece.T_max, piece.by_epoch) == (10, 40, 30, False)
    assert iters_from_epochs(dict(milestones=[1, 2], step_size=3, end=sc.INF), 7) == dict(milestones=[7, 14], step_size=21, end=sc.INF, by_epoch=False)
    with pytest.raises(ValueError, match='number of iterations, got None'): build_schedulers(optimizer_of(), cfg)


def test_kinds_of_input():
    ready = LinearLR(optimizer_of())
    assert build_schedulers(None, None) == [] and build_schedulers(None, [ready]) == [ready] and build_schedulers(None, ready) == [ready]
    with pytest.raises(LookupError, match='CosineAnnealingLR'): build_schedulers(optimizer_of(), dict(type='CosineAnealingLR'))
    with pytest.raises(TypeError, match=r"param_scheduler.1.eta_mn.*'eta_min'"): build_schedulers(optimizer_of(), [ready, dict(type='PolyLR', eta_mn=1)])
    with pytest.raises(TypeError, match='milestones'): build_schedulers(optimizer_of(), dict(type='MultiStepLR'))


def test_every_class_is_found_by_name():
    from learndet.core.registry import PARAM_SCHEDULERS
    for kind in ('Constant', 'Linear', 'MultiStep', 'Step', 'Exponential', 'CosineAnnealing', 'Poly', 'QuadraticWarmup'):
        for ending, param in (('LR', 'lr'), ('Momentum', 'momentum'), ('ParamScheduler', 'lr')):
            assert PARAM_SCHEDULERS.get(f'mmengine.{kind}{ending}').schedules == param


def test_wrapper_and_plot():
    from learndet.engine.optimizers import OptimWrapper
    wrapper = OptimWrapper(optimizer_of())
    MultiStepLR(wrapper, milestones=[1]).step()
    assert np.allclose(wrapper.get_lr()['lr'], [.002, .03])
    import matplotlib; matplotlib.use('Agg')
    assert plot_schedule(dict(type='PolyLR', end=3), epochs=3, epoch_length=5).get_ylabel() == 'lr'
