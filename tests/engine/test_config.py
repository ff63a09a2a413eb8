"Config files: inheritance, sources, overrides, and the bad inputs people feed."
import copy
import os
import pickle
import re
import warnings
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from learndet.engine.config import (Config, ConfigDict, ConfigError, check_fields, compat_cfg, config_diff, inheritance, merge_configs,
                                    parse_config_name, parse_literal, parse_options, replace_cfg_vals, schedule_from_name, show,
                                    show_inheritance, stale_message, stale_variables, update_data_root)


@pytest.fixture
def files(tmp_path, monkeypatch):
    "files(a_py=...) writes a.py; names with folders go into a dict."
    monkeypatch.chdir(tmp_path)
    def write(more={}, **texts):
        for name, text in dict(more, **{re.sub('_(py|json|yaml)$', r'.\1', k): v for k, v in texts.items()}).items():
            path = Path(name)
            path.parent.mkdir(parents=True, exist_ok=True); path.write_text(text)
    return write


def test_three_kinds_of_files_say_the_same(files):
    files(a_py="model = dict(depth=50, scales=[1, 2.5], lr=1e-4, flag=True, none=None)", a_json='{"model": {"depth": 50, "scales": [1, 2.5], "flag": true, "lr": 0.0001, "none": null}}',
          a_yaml='model:\n  depth: 50\n  scales: [1, 2.5]\n  flag: true\n  lr: 1e-4\n  none: null\n')
    a, b = Config.fromfile('a.py'), Config.fromfile(Path('a.json'))
    assert a == b and b.model.depth == 50 and isinstance(b.model, ConfigDict)
    pytest.importorskip('yaml')
    assert Config.fromfile('a.yaml') == a


def test_inheritance_goes_both_ways_between_kinds(files):
    files(base_json='{"x": {"lr": 1, "on": 2}, "n": 3}', mid_py="_base_ = 'base.json'\nx = dict(lr={{_base_.n}})",
          child_json='{"_base_": ["mid.py"], "y": {{_base_.x}}, "z": "{{_base_.n}}-{{fileBasenameNoExtension}}", "x": {"_delete_": true, "k": 1}}')
    cfg = Config.fromfile('child.json')
    assert cfg == dict(x=dict(k=1), n=3, y=dict(lr=3, on=2), z='3-child')
    assert inheritance(cfg) == (3, ['base.json', 'mid.py', 'child.json']) and str(cfg.provenance('y.lr')) == 'child.json'


def test_environment_in_json(files, monkeypatch):
    monkeypatch.setenv('LEARNDET_N', '7')
    files(a_json='{"a": {{$LEARNDET_N:3}}, "b": "{{$LEARNDET_N:3}}", "c": "r/{{$LEARNDET_M:x}}"}')
    assert Config.fromfile('a.json') == dict(a=7, b='7', c='r/x')


BAD = [
    (dict(a_py="_base_ = 'b.py'", b_py="_base_ = './c.py'", c_py="_base_ = ['a.py']"), ['circle', 'a.py -> b.py -> c.py -> a.py']),     # 83, 5e
    (dict(a_py="_base_ = 'a.py'"), ['a.py -> a.py']),
    (dict(a_py="_base_ = ['b.py', 'c.py']", b_py='x = 1', c_py='y = 2\nx = 1'), ["define 'x'", 'b.py:1', 'c.py:2']),                     # 84
    (dict(a_py="_base_ = 'bb.py'", b_py='x = 1'), ['no config bb.py', 'which a.py inherits', "did you mean 'b.py'"]),
    (dict(a_py="_base_ = 'mmdet::atss/x.py'"), ['package mmdet', 'LEARNDET_MMDET_CONFIGS']),
    (dict(a_py="_base_ = dict(a=1)"), ['a path or a list of paths', 'line 1, column 10']),
    (dict(a_py="_base_ = 'b.py'\nsteps = dict(a=1)", b_py='steps = [8, 11]'), ['steps: the base has a list of 2', 'steps={0: dict(...)}']),        # 5d
    (dict(a_py="_base_ = 'b.py'\nx = dict(k=dict(a=1))", b_py="x = dict(k='auto')"), ["x.k: the base says 'auto'", '_delete_=True']),
    (dict(a_py="_base_ = 'b.py'\np = dict(R=dict(a=1))", b_py="p = [dict(type='R'), dict(type='R')]"), ['p.R: several elements', '[0, 1]']),
    (dict(a_py="x = {{'$LEARNDET_NOT_SET'}}"), ['LEARNDET_NOT_SET is not set', 'line 1']),                                                # 91
    (dict(a_py="import os\nx = os.environ['A']"), ['line 2, column 5']),                                                                  # 92
    (dict(a_py='x = 1', ), None),
    (dict(a_json='{"a": 1,}'), ['a.json, line 1']), (dict(a_json='[1]'), ['table of names']), (dict(a_json='{"a": 1 "b"}'), ['a.json, line 1, column 9']),
    (dict(a_py='filename = 1'), ["'filename' is taken"]),
]


@pytest.mark.parametrize('texts, words', BAD, ids=range(len(BAD)))
def test_bad_files(files, texts, words, monkeypatch):
    monkeypatch.delenv('LEARNDET_MMDET_CONFIGS', raising=False)
    files(**texts)
    name = 'a.json' if 'a_json' in texts else 'a.py'
    if words is None: Config.fromfile(name); return
    with pytest.raises((ConfigError, FileNotFoundError)) as info: Config.fromfile(name)
    assert all(w in str(info.value) for w in words), str(info.value)


def test_trusted_runs_and_untrusted_does_not(files):
    files(a_py="import os\ndef f(): return 3\nopen('ran', 'w').close()\nx = f()")
    with pytest.raises(ConfigError, match='trusted=True'): Config.fromfile('a.py')
    assert not os.path.exists('ran')
    assert Config.fromfile('a.py', trusted=True) == dict(x=3) and os.path.exists('ran')


def test_own_package_scope(files):
    files(a_py="_base_ = 'learndet::nothing_like_this.py'")
    with pytest.raises(FileNotFoundError, match='nothing_like_this.py'): Config.fromfile('a.py')


def test_delete_merge_and_list_elements(files):
    files(b_py="m = dict(type='A', a=1, deep=dict(x=1, y=2))\np = [dict(type='L'), dict(type='R', s=1), dict(type='F', p=.5)]\nt = (1, 2)\nn = None",
          a_py="_base_ = 'b.py'\nm = dict(_delete_=True, type='B', deep=dict(_delete_=True, z=1))\np = {1: dict(s=2), 'F': dict(_delete_=True, type='G')}\n"
               "t = {0: 5}\nn = dict(k=1)\nfresh = dict(_delete_=True, k=2)")
    cfg = Config.fromfile('a.py')
    assert cfg.m == dict(type='B', deep=dict(z=1)) and cfg.p == [dict(type='L'), dict(type='R', s=2), dict(type='G')]
    assert cfg.t == (5, 2) and cfg.n == dict(k=1) and cfg.fresh == dict(k=2) and '_delete_' not in cfg.dump()


nested = st.recursive(st.integers(0, 9), lambda inner: st.dictionaries(st.sampled_from('abc'), inner, max_size=3), max_leaves=9)
dicts = st.dictionaries(st.sampled_from('abcd'), nested, max_size=4)


def over_slow(base, child):
    if not isinstance(base, dict) or not isinstance(child, dict): return child
    return {k: over_slow(base[k], child[k]) if k in base and k in child else child.get(k, base.get(k)) for k in [*base, *child]}


@given(dicts, dicts)
@settings(max_examples=60, deadline=None)
def test_merge_is_its_slow_twin_and_changes_neither(base, child):
    a, b = ConfigDict(copy.deepcopy(base)), ConfigDict(copy.deepcopy(child))
    try: merged = merge_configs(a, b)
    except ConfigError: return                                         # a dict over a number
    assert merged == over_slow(base, child) and a == base and b == child


@given(st.dictionaries(st.sampled_from('abcd'), st.recursive(
    st.one_of(st.integers(), st.floats(allow_nan=False), st.booleans(), st.none(), st.text(st.characters(codec='ascii', exclude_characters='{'))),
    lambda i: st.one_of(st.lists(i, max_size=3), st.lists(i, max_size=3).map(tuple), st.dictionaries(st.one_of(st.integers(0, 9), st.text('ab- ', max_size=3)), i, max_size=3)),
    max_leaves=12), min_size=1))
@settings(max_examples=60, deadline=None)
def test_dump_reads_back(values):
    cfg = Config(values)
    again = Config.fromstring(cfg.dump())
    assert again == cfg and again.dump() == cfg.dump()


def test_dump_to_files(files):
    files(a_py="model = dict(type='R', s=(1, 2), **{'a-b': 1})\nx = float('inf')")
    cfg = Config.fromfile('a.py')
    for name in ('b.py', 'c.json'):
        cfg.dump(name)
        again = Config.fromfile(name)
        assert again.x == float('inf') and list(again.model.s) == [1, 2]
    assert cfg.pretty_text == cfg.dump()
    with pytest.raises(ConfigError, match='dump to .json'): Config({'a-b': 1}).dump()
    with pytest.raises(ConfigError, match='a .py, .json'): cfg.dump('x.toml')


def test_braces_copy_what_they_name(files):
    "CFG-10: editing the copy leaves the base unchanged."
    files(b_py='model = dict(neck=dict(n=1))', a_py="_base_ = 'b.py'\nextra = {{_base_.model}}\nextra.neck.n = 9")
    cfg = Config.fromfile('a.py')
    assert (cfg.model.neck.n, cfg.extra.neck.n) == (1, 9)


def test_sources_follow_values(files, capsys):
    files({'_base_/m.py': "d = 50\nmodel = dict(\n    depth=d,\n    neck=dict(n=1))"}, a_py="_base_ = '_base_/m.py'\nmodel = dict(\n    neck=dict(\n        k=2))\nextra = _base_.model\nextra.neck.n = 9")
    cfg = Config.fromfile('a.py')
    places = {p: str(cfg.provenance(p)) for p in ('model.depth', 'model.neck.n', 'model.neck.k', 'extra.depth', 'extra.neck.n', 'd')}
    assert places == {'model.depth': '_base_/m.py:3', 'model.neck.n': 'a.py:6', 'model.neck.k': 'a.py:4', 'extra.depth': '_base_/m.py:3',
                      'extra.neck.n': 'a.py:6', 'd': '_base_/m.py:1'}
    assert cfg.model.neck.n == 9 and cfg.extra is not cfg.model                     # as in MMEngine, `_base_.model` is the base itself
    cfg.merge_from_dict({'model.depth': 18}); cfg.model.neck.n = 7
    show(cfg, 'model')
    out = capsys.readouterr().out
    assert '--cfg-options' in out and 'Python' in out and 'a.py:4' in out
    with pytest.raises(KeyError, match="did you mean 'depth'"): cfg.provenance('model.dept')
    again = pickle.loads(pickle.dumps(cfg))
    assert again == cfg and again.filename == 'a.py' and str(again.provenance('model.depth')) == '--cfg-options'
    twin = copy.deepcopy(cfg); twin.model.depth = 1
    assert cfg.model.depth == 18 and isinstance(twin, Config) and twin.filename == 'a.py'


OPTIONS = {'a.b=1': ('a.b', 1), 'c="[1,2]"': ('c', [1, 2]), 'model.backbone.norm_eval=False': ('model.backbone.norm_eval', False), 'x=1e-3': ('x', .001),
           'x=abc': ('x', 'abc'), 'x=None': ('x', None), 'x=8,11': ('x', [8, 11]), 'x=(8,11)': ('x', (8, 11)), 'x=[a,b]': ('x', ['a', 'b']),
           'x=[(1,2),[3]]': ('x', [(1, 2), [3]]), "x='8'": ('x', 8), 'x="\'8\'"': ('x', '8'), 'x=a=b': ('x', 'a=b'), 'x=': ('x', ''), 'x=()': ('x', ()),
           'x=[]': ('x', []), 'x=-1': ('x', -1), 'x=data/a-b.py': ('x', 'data/a-b.py'), "x=dict(type='S',lr=.1)": ('x', dict(type='S', lr=.1)),
           "x={'a': [1]}": ('x', dict(a=[1])), 'x=true': ('x', True), 'model.data_preprocessor.mean="[127,127,127]"': ('model.data_preprocessor.mean', [127] * 3),
           'data_prefix._delete_=True': ('data_prefix._delete_', True), 'x=https://a.b/c.pth?x=1': ('x', 'https://a.b/c.pth?x=1'), 'x="a,b"': ('x', ['a', 'b'])}


@pytest.mark.parametrize('text', OPTIONS)
def test_options(text): assert parse_options([text]) == dict([OPTIONS[text]])


@given(st.recursive(st.one_of(st.integers(), st.booleans(), st.none(), st.floats(allow_nan=False, allow_infinity=False)),
                    lambda i: st.one_of(st.lists(i, max_size=3), st.lists(i, min_size=2, max_size=3).map(tuple)), max_leaves=6))
@settings(max_examples=60, deadline=None)
def test_a_written_value_parses_back(value): assert parse_literal(repr(value).replace(' ', '')) == value


def test_merge_from_dict_paths():
    make = lambda: Config(dict(model=dict(depth=50, head=[dict(k=1), dict(k=2)]), pipeline=[dict(type='L'), dict(type='R', s=1)], t=(dict(a=1), 2)))
    cfg = make()
    cfg.merge_from_dict({'model.depth': 18, 'model.head.1.k': 5, 'pipeline.R.s': (3, 4), 'pipeline.0.type': 'N', 't.0.a': 9, 'new.x.y': 1})
    assert cfg == dict(model=dict(depth=18, head=[dict(k=1), dict(k=5)]), pipeline=[dict(type='N'), dict(type='R', s=(3, 4))], t=(dict(a=9), 2), new=dict(x=dict(y=1)))
    cfg.merge_from_dict({'model._delete_': True, 'model.type': 'X'})
    assert cfg.model == dict(type='X')
    cfg.merge_from_dict({'t.1': 7}); assert cfg.t == (dict(a=9), 7)
    for bad, words in (({'pipeline.5.s': 1}, '2 elements'), ({'a.b': 1, 'a': 2, 'a.c': 3}, 'a was set'), ({'pipeline.Q.s': 1}, 'by its type'), ({'model.type.x': 1}, '_delete_')):
        with pytest.raises(ConfigError, match=words): c = make(); c.merge_from_dict({'model.type': 'x'}); c.merge_from_dict(bad)


def test_stale_variables(files):
    files(b_py="scale = 1\npipe = [dict(type='R', s=scale)]\nloader = dict(data=dict(p=pipe, q=[pipe]))\ntest = loader\nn = 3\nhead = dict(n=n * 2)",
          c_py="_base_ = 'b.py'\npipe = [dict(type='Z')]", d_py="_base_ = 'c.py'\nloader = dict(data=dict(p={{_base_.pipe}}))\nn = 3",
          e_py="_base_ = 'b.py'\nn = 4", f_py="_base_ = 'b.py'\nx = _base_.pipe\nx.append(1)\ny = _base_.pipe\nfor i in range(3): z = [i]\nw = z\nz = 1")
    stale = lambda name: sorted({(s.path, s.variable, str(s.redefined)) for s in stale_variables(Config.fromfile(name))})
    assert stale('b.py') == [] and stale('f.py') == []
    assert stale('c.py') == [('loader.data.p', 'pipe', 'c.py:2'), ('loader.data.q', 'pipe', 'c.py:2'), ('test.data.p', 'pipe', 'c.py:2'), ('test.data.q', 'pipe', 'c.py:2')]
    assert ('loader.data.p', 'pipe', 'c.py:2') not in stale('d.py') and ('head.n', 'n', 'd.py:3') not in stale('d.py')      # passed on; same value
    assert ('test', 'loader', 'd.py:2') in stale('d.py') and stale('e.py') == [('head.n', 'n', 'e.py:2')]
    cfg = Config.fromfile('c.py')
    assert 'loader.data.p (b.py:3) holds the old pipe' in stale_message(cfg, stale_variables(cfg))


def test_check_fields(files):
    files(a_py="base_lr = 1\noptim_wrapper = dict(optimizer=dict(lr=base_lr))\nmodel = dict()\nextra = 1", b_py="optim_wraper = dict()", c_py='param_schedulers = []', d_py='work_dirs = 1')
    assert check_fields(Config.fromfile('a.py')) == ['extra']
    for name, want in (('b.py', 'optim_wrapper'), ('c.py', 'param_scheduler'), ('d.py', 'work_dir')):
        with pytest.raises(ConfigError, match=f"{name}:1.*{want}"): check_fields(Config.fromfile(name))


NAMES = {'faster-rcnn_r50_fpn_1x_coco.py': (16, 12, ('r50', 'fpn'), ('coco',)), 'configs/x/mask-rcnn_r50-caffe_fpn_ms-poly-3x_coco.py': (16, 36, ('r50-caffe', 'fpn'), ('coco',)),
         'ssd300_coco.py': (16, None, (), ('coco',)), 'retinanet_r50_fpn_8xb32-20e_voc0712_coco': (256, 20, ('r50', 'fpn'), ('voc0712', 'coco')),
         'fcos_r50-caffe_fpn_gn-head_4xb4-2x_cityscapes.py': (16, 24, ('r50-caffe', 'fpn', 'gn-head'), ('cityscapes',)), 'x_y_4x4b_coco': (16, None, ('y',), ('coco',))}


@pytest.mark.parametrize('name', NAMES)
def test_names(name):
    n = parse_config_name(name)
    assert (n.batch_size, n.epochs, n.components, n.datasets) == NAMES[name]


def test_schedules_of_names():
    train_cfg, (warmup, steps) = schedule_from_name('a_b_20e_coco')
    assert train_cfg['max_epochs'] == 20 and steps['milestones'] == [16, 19] and warmup['end'] == 500
    assert schedule_from_name('a_b_100e_coco')[1][1]['milestones'] == [67, 92]


def test_replace_and_roots(files, monkeypatch):
    cfg = Config(dict(a='${b.c}', b=dict(c='${d}-x', e='${f}'), d=3, f=[1, '${d}'], model_wrapper=dict(type='W', m='${model}'), model=dict(type='M')))
    out = replace_cfg_vals(cfg)
    assert out.a == '3-x' and out.b.e == [1, 3] and out.model == dict(type='W', m=dict(type='M')) and 'model_wrapper' not in out
    assert isinstance(out, Config) and cfg.a == '${b.c}'
    cfg = Config(dict(data_root='data/coco/', x=[dict(data_root='data/coco/', f=('data/coco/a', 'else'))], y='data/coco'))
    monkeypatch.setenv('MMDET_DATASETS', '/mm'); monkeypatch.delenv('LEARNDET_DATASETS', raising=False)
    assert update_data_root(cfg) == 'data/coco/' and cfg == dict(data_root='/mm/', x=[dict(data_root='/mm/', f=('/mm/a', 'else'))], y='data/coco')
    monkeypatch.setenv('LEARNDET_DATASETS', '/ld/')
    update_data_root(cfg); assert cfg.data_root == '/ld/'                            # our own variable comes first


def test_version_2():
    v2 = dict(optimizer=dict(type='SGD', lr=.02, paramwise_cfg=dict(norm_decay_mult=0)), optimizer_config=dict(grad_clip=None), runner=dict(type='IterBasedRunner', max_iters=90),
              lr_config=dict(policy='CosineAnnealing', min_lr=1e-5, warmup='constant', warmup_iters=5, warmup_ratio=.1), evaluation=dict(interval=10),
              checkpoint_config=dict(interval=2, create_symlink=True), log_config=dict(interval=50, hooks=[]), resume_from='a.pth', data=dict(workers_per_gpu=3, val=dict(type='V')))
    with pytest.warns(UserWarning, match='lr_config'): v3 = compat_cfg(v2)
    assert v3 == dict(optim_wrapper=dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=.02), paramwise_cfg=dict(norm_decay_mult=0)), param_scheduler=[
        dict(type='ConstantLR', factor=.1, by_epoch=False, begin=0, end=5), dict(type='CosineAnnealingLR', by_epoch=False, begin=0, end=90, eta_min=1e-5)],
        train_cfg=dict(type='IterBasedTrainLoop', max_iters=90, val_interval=10), val_cfg=dict(type='ValLoop'), test_cfg=dict(type='TestLoop'),
        val_dataloader=dict(batch_size=1, num_workers=3, dataset=dict(type='V'), sampler=dict(type='DefaultSampler', shuffle=False)),
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', interval=2), logger=dict(type='LoggerHook', interval=50)), load_from='a.pth', resume=True)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert compat_cfg(v3) == v3


def test_pure_python_style(files):
    files({'_base_/runtime.py': "from mmengine.hooks import LoggerHook\ndefault_hooks = dict(logger=dict(type=LoggerHook, interval=50))\nx = None",
           '_base_/model.py': "from mmdet.models import RetinaNet, ResNet\nfrom torch.nn import SyncBatchNorm as BN\n"
                              "model = dict(type=RetinaNet, backbone=dict(type=ResNet, depth=50, norm=dict(type=BN)))"},
          a_py="from mmengine.config import read_base\n\nwith read_base():\n    from ._base_.model import *\n    from ._base_.runtime import default_hooks\n\n"
               "from mmdet.models import Swin\n\nmodel.update(dict(backbone=dict(depth=18)))\ndefault_hooks.logger.interval = 10\nmodel.merge(dict(backbone=dict(_delete_=True, type=Swin)))\n"
               "train = dict(hooks=default_hooks)",
          old_py="if '_base_':\n    from .a import *\nmodel.type = 'X'")
    cfg = Config.fromfile('a.py')
    assert cfg == dict(model=dict(type='RetinaNet', backbone=dict(type='Swin')), default_hooks=dict(logger=dict(type='LoggerHook', interval=10)),
                       train=dict(hooks=dict(logger=dict(type='LoggerHook', interval=10))))
    assert Config.fromfile('old.py').model.type == 'X' and inheritance(Config.fromfile('old.py'))[0] == 3
    assert Config.fromfile('a.py').model.type == 'RetinaNet'                       # the base file's values were not changed for others


def test_diff_and_picture(files):
    files(b_py='a = dict(x=1, y=[1, dict(z=2)])', c_py="_base_ = 'b.py'\na = dict(x=2)\nn = 1")
    b, c = Config.fromfile('b.py'), Config.fromfile('c.py')
    assert config_diff(b, c) == ['a.x: 1 -> 2', 'n: (nothing) -> 1'] and config_diff(b, b) == []
    import matplotlib; matplotlib.use('Agg')
    texts = [t.get_text() for t in show_inheritance(c).texts if t.get_text()]
    assert texts == ['c.py\n2 values', 'b.py\n2 values']
