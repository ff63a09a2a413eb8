"Checkpoints: always a whole one, never code, and a table of what was loaded."
import errno
import os
import pickle
import random
import signal
import time
import warnings
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from learndet.engine import checkpoint as ck
from learndet.engine.checkpoint import (CheckpointError, LoadReport, check_file, checkpoint_meta, expected_bytes, file_sha256, find_latest_checkpoint,
                                        is_whole, load_checkpoint, load_state, local_file, publish, save_checkpoint, weights_of)


def state(n=1000): return dict(state_dict=dict(w=torch.arange(n, dtype=torch.float32)), meta=checkpoint_meta(epoch=n))


def test_round_trip_of_everything_a_run_keeps(tmp_path):
    rng = dict(python=random.getstate(), torch=torch.get_rng_state(), numpy=np.random.get_state())
    kept = dict(state(), best=np.float32(.5), n=np.int64(3), flags=np.array([True, False]), names=np.array(['a', 'b']), f16=torch.ones(2, dtype=torch.bfloat16),
                nested=[(1, None), {'x': {1, 2}}], order=OrderedDict(a=1), size=torch.Size([1, 2]), rng=rng, text='ü')
    again = load_checkpoint(save_checkpoint(kept, tmp_path / 'deep' / 'a.pth'))
    assert torch.equal(again['state_dict']['w'], kept['state_dict']['w']) and again['best'] == .5 and again['flags'].tolist() == [True, False]
    assert again['rng']['python'] == rng['python'] and again['nested'] == kept['nested'] and again['names'].tolist() == ['a', 'b'] and again['text'] == 'ü'
    assert os.listdir(tmp_path / 'deep') == ['a.pth']


@pytest.mark.skipif(not hasattr(os, 'fork'), reason='kills a process that was forked')
def test_killed_at_random_moments_there_is_always_a_whole_file(tmp_path):
    "14a, in small: the writer dies 25 times."
    path, rng = tmp_path / 'last.pth', random.Random(0)
    save_checkpoint(state(1), path)
    newest = 1
    for _ in range(25):
        pid = os.fork()
        if pid == 0:
            n = newest
            try:
                while True: n += 1; save_checkpoint(dict(n=n, w=torch.zeros(200_000)), path)
            finally: os._exit(0)
        time.sleep(rng.uniform(.001, .03)); os.kill(pid, signal.SIGKILL); os.waitpid(pid, 0)
        now = load_checkpoint(path).get('n', 1)
        assert now >= newest and is_whole(path)
        newest = now
    assert newest > 1
    save_checkpoint(state(2), path)
    assert os.listdir(tmp_path) == ['last.pth']                        # what the killed ones left is gone


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = save_checkpoint(state(3), tmp_path / 'a.pth')
    good = path.read_bytes()
    for error, words in ((OSError(errno.ENOSPC, 'No space left on device'), 'disk full'), (RuntimeError('unexpected pos 704 vs 598'), 'disk full'),
                         (KeyboardInterrupt(), None), (OSError(errno.EIO, 'bad sector'), 'bad sector')):
        def fail(obj, f): f.write(b'half'); raise error
        monkeypatch.setattr(torch, 'save', fail)
        with pytest.raises(OSError if words == 'disk full' else type(error), match=words): save_checkpoint(state(4), path)
        assert path.read_bytes() == good and os.listdir(tmp_path) == ['a.pth']


@pytest.mark.skipif(not hasattr(os, 'fork'), reason='limits a forked process')
def test_a_real_limit_on_the_size_of_files(tmp_path):
    "99: the system itself refuses the bytes, in the middle of the write."
    import resource
    path = save_checkpoint(state(3), tmp_path / 'a.pth')
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
        try: save_checkpoint(state(100_000), path)
        except OSError as error: os._exit(0 if error.errno == errno.ENOSPC and '400,000 bytes needed' in str(error) and 'is intact' in str(error) else 2)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0 and load_checkpoint(path)['meta']['epoch'] == 3


@pytest.mark.parametrize('legacy', [False, True])
def test_cut_anywhere_is_said(tmp_path, legacy):
    path, cut = tmp_path / 'a.pth', tmp_path / 'cut.pth'
    torch.save(state(5000), path, _use_new_zipfile_serialization=not legacy)
    whole = path.read_bytes()
    assert is_whole(path) and 20_000 <= expected_bytes(path) <= len(whole)
    for n in [0, 1, 3, 40, 200, 700, 5000, 15_000, 20_000, len(whole) - 30]:
        cut.write_bytes(whole[:n])
        if legacy and n >= expected_bytes(path): continue
        with pytest.raises(CheckpointError) as info: load_checkpoint(cut)
        assert (f'file is cut ({n:,} of' in str(info.value) or n in (1, 3) and 'no checkpoint' in str(info.value)) and not is_whole(cut), (n, info.value)
    cut.write_bytes(whole[:15_000])
    with pytest.raises(CheckpointError, match=r'15,000 of at least 2\d,\d+ bytes\); the newest whole file beside it is a.pth'): load_checkpoint(cut)


class Evil:
    def __init__(self, f, *args): self.call = f, args
    def __reduce__(self): return self.call


@pytest.mark.parametrize('legacy', [False, True])
@pytest.mark.parametrize('f, args', [(os.system, ('touch pwned',)), (eval, ("open('pwned', 'w')",)), (exec, ("open('pwned', 'w')",)), (open, ('pwned', 'w')),
                                     (__import__, ('os',))], ids=['system', 'eval', 'exec', 'open', 'import'])
def test_code_is_refused(tmp_path, monkeypatch, f, args, legacy):
    monkeypatch.chdir(tmp_path)
    torch.save(dict(state_dict=dict(w=torch.ones(2)), x=Evil(f, *args)), 'gift.pth', _use_new_zipfile_serialization=not legacy)
    with pytest.raises(CheckpointError, match='holds code: reading it would call'): load_checkpoint('gift.pth')
    expected_bytes(Path('gift.pth')); is_whole('gift.pth')
    Path('gift.pth').write_bytes(Path('gift.pth').read_bytes()[:-60])
    with pytest.raises(CheckpointError): load_checkpoint('gift.pth')
    assert os.listdir() == ['gift.pth']


def test_plain_pickles_and_other_files(tmp_path):
    for name, data, words in (('p.pth', pickle.dumps(Evil(os.system, 'x')), 'p.pth'), ('h.pth', b'<html>', 'web page'), ('l.pth', b'version https://git-lfs', 'Git LFS'),
                              ('j.pth', b'\x89PNG', 'something else'), ('z.pth', b'PK\x03\x04' + b'0' * 99, 'cut')):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(CheckpointError, match=words): load_checkpoint(tmp_path / name)
    with pytest.raises(FileNotFoundError, match='did you mean h.pth'): load_checkpoint(tmp_path / 'hh.pth')
    with pytest.raises(FileNotFoundError, match='there is no folder'): check_file(tmp_path / 'no' / 'a.pth')


def test_mmengine_files_load_without_mmengine(tmp_path):
    "A training checkpoint of MMEngine holds its HistoryBuffer; here one with the same name and state."
    import sys, types
    class HistoryBuffer:
        def __init__(self): self._history, self._statistics_methods = np.array([1., 2.]), {}
    HistoryBuffer.__module__, HistoryBuffer.__qualname__ = 'mmengine.logging.history_buffer', 'HistoryBuffer'
    modules = {name: types.ModuleType(name) for name in ('mmengine', 'mmengine.logging', 'mmengine.logging.history_buffer')}
    modules['mmengine.logging.history_buffer'].HistoryBuffer = HistoryBuffer
    sys.modules.update(modules)
    try: torch.save(dict(state(), message_hub=dict(log_scalars={'train/loss': HistoryBuffer()})), tmp_path / 'm.pth')
    finally:
        for name in modules: del sys.modules[name]
    again = load_checkpoint(tmp_path / 'm.pth')
    assert again['message_hub']['log_scalars']['train/loss'].state['_history'].tolist() == [1., 2.] and 'w' in weights_of(again)


class Net(nn.Module):
    def __init__(self, K=3, width=4):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.Conv2d(width, width, 3))
        self.bbox_head = nn.ModuleDict(dict(fc_cls=nn.Linear(1024, K + 1), fc_reg=nn.Linear(1024, 4 * K)))


def test_num_12_exactly_four_tensors():
    model, report = Net(3), None
    report = load_state(model, Net(80).state_dict())
    assert [n for n, *_ in report.mismatched] == [f'bbox_head.{n}' for n in ('fc_cls.weight', 'fc_cls.bias', 'fc_reg.weight', 'fc_reg.bias')]
    assert [r[1:] for r in report.mismatched] == [((81, 1024), (4, 1024)), ((81,), (4,)), ((320, 1024), (12, 1024)), ((320,), (12,))]
    assert len(report.loaded) == 9 and not report.missing and not report.unexpected and report.matched == 1. and not report.exact
    assert '4 reinitialised' in str(report) and 'file (81, 1024), model (4, 1024)' in str(report)


@pytest.mark.parametrize('wrap', [lambda s: s, lambda s: dict(state_dict=s, optimizer={}), lambda s: dict(model=s), lambda s: {f'module.{k}': v for k, v in s.items()},
                                  lambda s: {f'_orig_mod.{k}': v for k, v in s.items()}, lambda s: {f'module._orig_mod.{k}': v for k, v in s.items()},
                                  lambda s: dict(ema_state_dict=dict({f'module.{k}': v for k, v in s.items()}, steps=torch.tensor(3)))])
def test_wrapped_weights_load(wrap):
    a, b = Net(), Net()
    assert load_state(a, wrap(b.state_dict())).exact
    assert all(torch.equal(v, b.state_dict()[k]) for k, v in a.state_dict().items())


def test_wrong_files_touch_nothing():
    model = Net()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    bad = {k: v.clone() for k, v in Net().state_dict().items()}; bad['backbone.0.weight'][0, 0, 0, 0] = float('nan')
    for given, words, kw in ((Net(width=5).state_dict(), 'another architecture', {}), (dict(a=torch.ones(3)), 'only 0% of the weights', {}), (dict(epoch=3), 'no weights', {}),
                             (dict(optimizer=dict(state={}, param_groups=[])), r"holds \['optimizer'\]", {}), (bad, r"NaN or infinity.*backbone.0.weight", {}),
                             (Net(80).state_dict(), 'file and model differ', dict(strict=True))):
        with pytest.raises(CheckpointError, match=words): load_state(model, given, **kw)
        assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert load_state(model, Net(width=5).state_dict(), min_matched=0).matched < .5


def test_report_of_many_names_is_short():
    report = LoadReport(missing=[f'm{i}' for i in range(30)], unexpected=['u'])
    assert str(report).count('\n') == 12 and '... and 20 more' in str(report)


def test_find_latest(tmp_path):
    with pytest.warns(UserWarning, match='nothing to resume'): assert find_latest_checkpoint(tmp_path / 'none') is None
    with pytest.warns(UserWarning, match='nothing to resume'): assert find_latest_checkpoint(tmp_path) is None
    for i, name in enumerate(['epoch_1', 'epoch_9', 'epoch_10', 'best_mAP_epoch_10', 'iter_3']):
        save_checkpoint(state(i), tmp_path / f'{name}.pth'); os.utime(tmp_path / f'{name}.pth', (i // 3, i // 3))
    (tmp_path / '.epoch_11.pth.part').write_bytes(b'PK')
    assert find_latest_checkpoint(tmp_path) == str(tmp_path / 'iter_3.pth')                 # the newest in time
    os.utime(tmp_path / 'iter_3.pth', (0, 0))
    assert find_latest_checkpoint(str(tmp_path)) == str(tmp_path / 'epoch_10.pth')          # equal times: the larger number
    (tmp_path / 'last_checkpoint').write_text('/gone/epoch_9.pth\n')
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert find_latest_checkpoint(tmp_path) == str(tmp_path / 'epoch_9.pth')            # 100: the folder moved
    (tmp_path / 'epoch_9.pth').write_bytes((tmp_path / 'epoch_9.pth').read_bytes()[:99])
    with pytest.warns(UserWarning, match='epoch_9.pth, which is missing or cut; epoch_10.pth is used'): assert find_latest_checkpoint(tmp_path).endswith('epoch_10.pth')


def test_publish(tmp_path):
    net = Net()
    save_checkpoint(dict(meta=checkpoint_meta(classes=('a', 'b', 'c')), state_dict={f'module.{k}': v for k, v in net.state_dict().items()},
                         optimizer=dict(state={0: dict(m=torch.zeros(20_000))}), message_hub={}), tmp_path / 'e.pth')
    out = publish(tmp_path / 'e.pth', tmp_path / 'net.pth')
    assert out.stem == f'net-{file_sha256(out)[:8]}' and out.stat().st_size < (tmp_path / 'e.pth').stat().st_size - 80_000
    again = load_checkpoint(out)
    assert sorted(again) == ['meta', 'state_dict'] and again['meta']['classes'] == ('a', 'b', 'c') and load_state(Net(), again).exact
    assert publish(tmp_path / 'e.pth', tmp_path / 'net.pth') == out                          # the same weights, the same name


def test_weights_by_name(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path))
    calls = []
    def fetch(url, target, hash_prefix, progress): calls.append((url, hash_prefix)); torch.save(state(), target)
    monkeypatch.setattr(torch.hub, 'download_url_to_file', fetch)
    path = local_file('torchvision://resnet50')
    assert calls == [('https://download.pytorch.org/models/resnet50-0676ba61.pth', '0676ba61')] and path == tmp_path / 'checkpoints' / 'resnet50-0676ba61.pth'
    for _ in range(2): local_file('https://host/plain.pth')
    assert calls[1:] == [('https://host/plain.pth', None)]                                   # fetched once, then kept
    assert load_checkpoint('https://host/x/y-12345678.pth?raw=1')['meta']['format'] == ck.FORMAT and calls[-1] == ('https://host/x/y-12345678.pth?raw=1', '12345678')
    def offline(*args, **kwargs): raise OSError('unreachable')
    monkeypatch.setattr(torch.hub, 'download_url_to_file', offline)
    with pytest.raises(CheckpointError, match='Fetch https://h/a.pth elsewhere and put it at'): local_file('https://h/a.pth')
