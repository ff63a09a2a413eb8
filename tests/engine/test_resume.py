"A run that is killed and resumed is the run that was never killed, to the bit."
import os, signal, subprocess, sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from toy import MeanError, SpotNet, loader, sgd

from learndet.engine.default_hooks import CheckpointHook, EMAHook, EarlyStoppingHook
from learndet.engine.hooks import Hook
from learndet.engine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner
from learndet.engine.schedules import LinearLR, MultiStepLR


class Die(Hook):
    "Ends the process without a word, as a power cut would."
    priority = 'LOWEST'
    def __init__(self, at): self.at = at
    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter + 1 == self.at: os.kill(os.getpid(), signal.SIGKILL)


class Halt(Hook):
    "Raises in the middle of everything."
    priority = 'LOWEST'
    def __init__(self, at): self.at = at
    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter + 1 == self.at: raise ZeroDivisionError


def make(work_dir, kind='epoch', accumulate=1, workers=0, **kwargs):
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = SpotNet()
    optim = sgd(model, accumulative_counts=accumulate)
    schedules = [LinearLR(optim, start_factor=.1, by_epoch=False, end=8), MultiStepLR(optim, milestones=[2])]
    loop = EpochBasedTrainLoop(4) if kind == 'epoch' else IterBasedTrainLoop(20, val_interval=7)
    hooks = dict(checkpoint=CheckpointHook(4, by_epoch=False, max_keep_ckpts=2, save_best='map'), progress=None)
    kwargs.setdefault('custom_hooks', []).extend([EMAHook(momentum=.1), EarlyStoppingHook('error_px', min_delta=0, patience=50, rule='less')])
    return Runner(model, work_dir, loader(22, 4, num_workers=workers), loader(6, 3, shuffle=False), train_cfg=loop, optim_wrapper=optim,
                  param_scheduler=schedules, val_evaluator=MeanError(), seed=3, default_hooks=hooks, log_level='ERROR', **kwargs)


def equal(a, b):
    if isinstance(a, torch.Tensor): return torch.equal(a, b)
    if isinstance(a, dict): return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)): return len(a) == len(b) and all(map(equal, a, b))
    return a == b


def state_of(runner):
    state = runner.state_dict()
    runner.call_hook('before_save_checkpoint', checkpoint=state)
    state['message_hub'] = {k: v for k, v in state['message_hub']['history'].items() if 'time' not in k}
    state['meta'] = {k: v for k, v in state['meta'].items() if k not in ('time', 'experiment_name')}
    state['metrics'] = runner.metrics
    return state


def check_same(a, b):
    a, b = state_of(a), state_of(b)
    for key in a: assert equal(a[key], b[key]), f'{key} differs: {a[key]} {b[key]}' if key == 'meta' else f'{key} differs'


@pytest.fixture(scope='module')
def uninterrupted(tmp_path_factory):
    runners = {}
    def get(**kwargs):
        key = tuple(sorted(kwargs.items()))
        if key not in runners:
            runners[key] = make(tmp_path_factory.mktemp('whole'), **kwargs)
            runners[key].train()
        return runners[key]
    return get


def test_killed_with_sigkill_in_mid_epoch(tmp_path, uninterrupted):
    code = f'import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n' \
           f'from test_resume import *\nmake({str(tmp_path)!r}, custom_hooks=[Die(11)]).train()'
    child = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, timeout=120)
    assert child.returncode == -signal.SIGKILL, child.stderr
    assert (tmp_path / 'last_checkpoint').read_text() == 'iter_8.pth'              # the kill came 3 steps later, in epoch 2 of 6 steps
    again = make(tmp_path, resume=True)
    again.train()
    check_same(again, uninterrupted())


@pytest.mark.parametrize('kind, accumulate, at, workers', [('epoch', 1, 4, 0), ('epoch', 1, 13, 0), ('epoch', 3, 9, 0), ('iter', 1, 7, 0),
                                                           ('iter', 1, 14, 0), ('iter', 3, 18, 0), ('epoch', 1, 17, 1)])
def test_resumed_after_an_error(tmp_path, uninterrupted, kind, accumulate, at, workers):
    with pytest.raises(ZeroDivisionError): make(tmp_path, kind, accumulate, workers, custom_hooks=[Halt(at)]).train()
    again = make(tmp_path, kind, accumulate, workers, resume=True)
    again.train()
    check_same(again, uninterrupted(kind=kind, accumulate=accumulate))


def test_interrupted_runner_goes_on_in_the_same_process(tmp_path, uninterrupted):
    class CtrlC(Hook):
        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            if runner.iter == 9: signal.raise_signal(signal.SIGINT)
    runner = make(tmp_path, custom_hooks=[CtrlC()])
    with pytest.raises(KeyboardInterrupt): runner.train()
    assert (tmp_path / 'interrupted.pth').exists() and runner.train_loop.position == (1, 10, 4)
    torch.rand(100)                                                                 # the next cell of a notebook
    runner.train()
    check_same(runner, uninterrupted())
    again = make(tmp_path / 'b', resume=str(tmp_path / 'interrupted.pth'))
    again.train()
    check_same(again, uninterrupted())


def test_interrupted_validation_is_made_up_for(tmp_path, uninterrupted):
    class CtrlC(Hook):
        def before_val_iter(self, runner, batch_idx, data_batch=None):
            if runner.epoch == 2 and not runner.metrics.get('seen'): runner.metrics['seen'] = 1; signal.raise_signal(signal.SIGINT)
    runner = make(tmp_path, custom_hooks=[CtrlC()])
    with pytest.raises(KeyboardInterrupt): runner.train()
    again = make(tmp_path, resume=True)
    again.train()
    check_same(again, uninterrupted())


def test_asked_to_stop_it_returns_and_goes_on(tmp_path, uninterrupted):
    class Ask(Hook):
        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            if runner.iter == 9: runner.stop()
    runner = make(tmp_path, custom_hooks=[Ask()])
    assert runner.train() is runner.model and runner.train_loop.position == (1, 10, 4) and (tmp_path / 'last_checkpoint').read_text() == 'interrupted.pth'
    torch.rand(100)
    again = make(tmp_path / 'b', resume=str(tmp_path / 'interrupted.pth'))
    for r in (runner, again):
        r.train()
        check_same(r, uninterrupted())
