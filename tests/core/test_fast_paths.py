"torchvision missing or broken: everything goes on (user needs 2b, 2c)."
import os, subprocess, sys, textwrap
import pytest
import torch
from learndet.core import fast_paths as F

PROGRAM = '''
    import warnings
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        import learndet
        from learndet.core.fast_paths import active, env, torchvision_ops
        assert torchvision_ops() is None and torchvision_ops("cpu") is None
        notices = [str(w.message) for w in heard if "torchvision on cpu" in str(w.message)]
        assert len(notices) == 1, notices
        assert "torchvision ops on cpu" not in active()
        print(env()["torchvision ops on cpu"])
        from importlib import import_module
        from learndet.core.registry import export_index
        for module in sorted({m for ms in export_index().values() for m in ms}):
            try: import_module(module)
            except Exception as error:
                assert "torchvision" not in str(error), (module, error)
    print("done")'''


def run(program, **env):
    done = subprocess.run([sys.executable, '-c', textwrap.dedent(program)], capture_output=True, text=True,
                          env={**os.environ, 'MPLBACKEND': 'Agg', 'OMP_NUM_THREADS': '1', **env})
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_missing():
    out = run('    import sys; sys.modules["torchvision"] = None; sys.modules["torchvision.ops"] = None\n' + PROGRAM)
    assert 'not active: not installed' in out and 'done' in out


def test_broken(tmp_path):
    (tmp_path / 'torchvision').mkdir()
    (tmp_path / 'torchvision' / '__init__.py').write_text('raise RuntimeError("operator torchvision::nms does not exist")')
    out = run(PROGRAM, PYTHONPATH=os.pathsep.join([str(tmp_path), os.environ.get('PYTHONPATH', '')]))
    assert 'installed but broken (RuntimeError: operator torchvision::nms does not exist)' in out and 'done' in out


def test_the_probe_never_raises(monkeypatch):
    class Half:
        def __getattr__(self, name): raise NotImplementedError('no kernel for this device')
    monkeypatch.setattr(F, 'import_module', lambda name: Half())
    assert F.probe_torchvision('cpu') == (None, 'installed but broken (NotImplementedError: no kernel for this device)')
    monkeypatch.setattr(F, 'import_module', lambda name: (_ for _ in ()).throw(ModuleNotFoundError('no x', name='x.y')))
    assert F.probe_torchvision('cpu') == (None, 'needs x.y, which is missing')


def test_the_switch_nests_and_survives_errors():
    before = F._wanted[:]
    with pytest.raises(KeyError):
        with F.use_torchvision(False):
            assert F.torchvision_ops() is None and F.torchvision_ops(torch.device('cpu')) is None
            with F.use_torchvision(True): assert F._wanted[-1]
            raise KeyError
    assert F._wanted == before


def test_env_is_a_dict_and_a_block():
    facts = F.env()
    assert facts['torch'].startswith(torch.__version__.split('+')[0]) and 'CUDA of torch' in facts and 'gcc' in facts
    lines = str(facts).splitlines()
    assert len(lines) == len(facts) and all(line.startswith(key) for line, key in zip(lines, facts))
