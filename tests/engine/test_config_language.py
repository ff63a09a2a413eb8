"The config language: it means what Python means, and it cannot do what Python can do."
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from learndet.engine.config_language import ConfigDict, ConfigError, LIMIT, Reader, parse_python, plain, read_text, tree_size

numbers = st.one_of(st.integers(-99, 99), st.floats(-9, 9, allow_nan=False).map(lambda x: round(x, 2)), st.booleans(), st.none())
leaves = st.one_of(numbers.map(repr), st.text('abc_-/.', max_size=5).map(repr), st.sampled_from(['n', 'words', 'sizes']))


def wrap(inner):
    "Source texts of larger expressions."
    pair = st.tuples(inner, inner)
    return st.one_of(
        st.lists(inner, max_size=3).map(lambda xs: '[' + ', '.join(xs) + ']'),
        st.lists(inner, max_size=3).map(lambda xs: '(' + ''.join(x + ', ' for x in xs) + ')'),
        st.lists(inner, max_size=3).map(lambda xs: 'dict(' + ', '.join(f'k{i}={x}' for i, x in enumerate(xs)) + ')'),
        st.tuples(st.sampled_from(['+', '-', '*', '/', '//', '%', '==', '<', 'and', 'or', 'in']), pair).map(lambda t: f'({t[1][0]} {t[0]} {t[1][1]})'),
        st.tuples(inner, inner, inner).map(lambda t: f'({t[0]} if {t[1]} else {t[2]})'),
        st.tuples(inner, inner).map(lambda t: f'[({t[0]}) for i in range(3) if i or {t[1]}]'),
        st.tuples(st.sampled_from(['len', 'str', 'bool', 'sorted', 'sum', 'max', 'tuple', 'int']), inner).map(lambda t: f'{t[0]}({t[1]})'),
        inner.map(lambda x: f'({x})[0]'), inner.map(lambda x: "f'{" + x.replace("'", '"') + "}'"), inner.map(lambda x: f'not ({x})'))


@pytest.mark.filterwarnings("ignore::SyntaxWarning")
@given(st.recursive(leaves, wrap, max_leaves=8))
@settings(max_examples=150, deadline=None)
def test_what_the_reader_accepts_means_what_python_says(expression):
    names = dict(n=3, words=['a', 'b'], sizes=(1, 2))
    text = f'n, words, sizes = 3, ["a", "b"], (1, 2)\nresult = {expression}\n'
    try: expected = eval(expression, dict(names))
    except Exception: expected = ConfigError
    try: found = plain(read_text(text)['result'])
    except ConfigError: found = ConfigError
    if found is ConfigError: assert expected is ConfigError or tree_size(expected) > LIMIT or isinstance(expected, complex), expression
    else: assert found == expected and type(found) is type(expected), expression


@pytest.mark.filterwarnings("ignore::SyntaxWarning")
@given(st.text(st.characters(codec='utf-8'), max_size=60))
@settings(max_examples=100, deadline=None)
def test_any_text_gives_a_config_or_one_kind_of_error(text):
    try: assert isinstance(read_text(text), ConfigDict)
    except ConfigError: pass


ATTACKS = '''
x = __import__('os').system('touch pwned')
x = open('pwned', 'w')
x = eval("open('pwned', 'w')")
x = exec("open('pwned', 'w')")
x = getattr(dict, 'fromkeys')
x = ().__class__.__base__.__subclasses__()
x = dict.__class__
x = {}.__init__.__globals__
x = [].append.__self__
x = "{0.__class__.__init__.__globals__}".format(dict(a=1))
x = "{a.__class__}".format(a=1)
x = "{0[__class__]}".format(1)
x = f"{().__class__}"
x = (lambda: open('pwned', 'w'))()
x = [open('pwned', 'w') for _ in [1]]
x = (y := open('pwned', 'w'))
import os; x = os.system('touch pwned')
from os import system; x = system('touch pwned')
import os as o; x = o.path.join('a', 'b')
class A: x = open('pwned', 'w')
while True: pass
try: x = 1
except: pass
with open('pwned', 'w') as f: pass
global x
raise ValueError
x = yield
x = await y
x = compile('1', '', 'eval')
x = vars()
x = globals()
x = type('A', (), {})
x = print('hello')
x = input()
x = breakpoint()
x = dict(a=1).__class__
x = _base_.__class__
x = sorted([1], key=print)
x = max([1], key=open)
x = 'a'.encode().decode()
x = 'a'.maketrans('a', 'b')
x = 'a'.__len__()
from .other import *
with read_base(): import os
'''.strip().splitlines()


@pytest.mark.parametrize('attack', [a for a in ATTACKS if a not in ('try: x = 1', 'except: pass')] + ['try: x = 1\nexcept: pass', 'def f(): return 1\nx = f()'])
def test_attack_is_refused(attack, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError): read_text(attack)
    assert not list(tmp_path.iterdir())


BOMBS = ['x = [0] * 10 ** 9', "x = 'a' * 10 ** 10", 'x = 10 ** 10 ** 10', 'x = 2 ** 99999', "x = '%99999999d' % 1", "x = '%*d' % (99999999, 1)",
         "x = f'{1:99999999}'", "x = '{:99999999}'.format(1)", "x = '{:{}}'.format(1, 99999999)", 'x = list(range(10 ** 12))',
         'x = [i for i in range(10 ** 12)]', 'x = sum([[0] * 10 ** 5] * 10 ** 5, [])', "x = 'a'\nfor i in range(99): x = x + x",
         'x = [0]\nfor i in range(99): x = [x, x]', 'x = [0]\nfor i in range(99): x = dict(a=x, b=x)\ny = str(x)', 'x = []\nx.append(x)',
         "x = 'a' * 999999\ny = x.replace('a', x)", "x = ','.join(['a' * 9999] * 9999)", 'x = [0] * 900000\nx.extend(x)', 'x = ' + '[' * 5000 + ']' * 5000,
         'x = ' + '-' * 100000 + '1', 'x = 1' + ' + 1' * 50000, 'x = dict(a=1)\nfor i in range(5000): x = [x]', 'x = 7 ** 2000 * 7 ** 2000',
         'x = [0]\nfor i in range(40): x = [x, x]\ny = x == x[:]', "x = int('9' * 10000)"]


@pytest.mark.parametrize('bomb', BOMBS, ids=range(len(BOMBS)))
def test_bomb_ends_soon_and_in_little_memory(bomb):
    with pytest.raises(ConfigError): read_text(bomb)


def test_a_program_is_never_started(tmp_path):
    "The whole file of attacks, in a process that would notice."
    (tmp_path / 'attacks.txt').write_text('\n'.join(ATTACKS))
    code = ('import sys\nfrom learndet.engine.config_language import read_text, ConfigError\n'
            'events = []\nsys.addaudithook(lambda name, args: events.append(name) if name in ("os.system", "subprocess.Popen", "open", "exec") else None)\n'
            'text = [l for l in open("attacks.txt")]\nevents.clear()\n'
            'for line in text:\n    try: read_text(line)\n    except ConfigError: pass\n'
            'sys.exit(1 if {"os.system", "subprocess.Popen", "exec"} & set(events) else 0)')
    done = subprocess.run([sys.executable, '-c', code], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and os.listdir(tmp_path) == ['attacks.txt'], done.stderr


PLACES = [('a = 1\nb = dict(x=1, y=c)\n', 'line 2, column 17', "no variable 'c'"), ('depth = 1\nx = dpeth', 'line 2, column 5', "did you mean 'depth'?"),
          ('x = dict(\n    a=1,\n    b=open(1))', 'line 3, column 7', 'open() cannot be called'), ('x = [1, 2][5]', 'line 1, column 5', 'index out of range'),
          ('ä = "ü"; x = ö', 'line 1, column 14', "no variable 'ö'"), ('x = 1 / 0', 'line 1, column 5', 'division by zero'),
          ('x = dict(a=1)\ndel x.b', 'line 2, column 1', "no key 'b'"), ('x = (1, 2\n', 'line 1', 'never closed'), ('a, b = 1, 2, 3', 'line 1', '2 names for 3 values'),
          ('x = dict(norm=1)\ny = x.nrom', 'line 2, column 5', "did you mean 'norm'?"), ('assert 1 == 2, "classes"', 'line 1', 'this does not hold: classes')]


@pytest.mark.parametrize('text, place, why', PLACES)
def test_message_says_where_and_why(text, place, why):
    with pytest.raises(ConfigError) as info: read_text(text, 'my.py')
    assert place in str(info.value) and why in str(info.value) and 'my.py' in str(info.value)


def test_statements_of_real_configs():
    cfg = read_text('''
a, (b, c) = 1, [2, 3]
model = dict(head=dict(n=1, **dict(m=2)), steps=[8, 11])
model['head'].update(n=5)
model.steps.append(12); model['steps'][0] += 1
x: int = 4
x *= 2
if x > 5: y = 'big'
else: y = 'small'
for i in range(2): model[f'k{i}'] = i
del a
names = ['p%d' % i for i in range(2)] + [f'{n}-{i:02d}' for i, n in enumerate('ab')]
custom_keys = {f'stage.{s}.block.{b}': dict(lr_mult=.1) for s, n in enumerate([1, 2]) for b in range(n)}
_private = 1
''')
    assert 'a' not in cfg and (cfg.b, cfg.c, cfg.x, cfg.y, cfg._private) == (2, 3, 8, 'big', 1)
    assert cfg.model == dict(head=dict(n=5, m=2), steps=[9, 11, 12], k0=0, k1=1)
    assert cfg.names == ['p0', 'p1', 'a-00', 'b-01'] and list(cfg.custom_keys)[1:] == ['stage.1.block.0', 'stage.1.block.1']


def test_imports_are_names():
    cfg = read_text('from mmdet.models import RetinaNet\nimport torch.nn as nn\nmodel = dict(type=RetinaNet, act=nn.ReLU, n=[nn.modules.GELU])')
    assert cfg == dict(model=dict(type='RetinaNet', act='ReLU', n=['GELU'])) and type(cfg.model.type) is str


def test_base_is_what_is_inherited():
    "As in MMEngine, where twelve of MMDetection's configs count on it; `{{ }}` is a copy."
    base = ConfigDict(pipeline=[dict(type='A'), dict(type='B')], lr=1, old=2)
    reader = Reader('', 'c.py', base)
    text = 't = {{_base_.pipeline}}\np = _base_.pipeline\np[0].type = "C"\nq = _base_.pipeline\ndel _base_.old\n_base_.lr = 5'
    out = reader.read(parse_python(text, 'c.py'))
    assert [s.type for s in out.q] == ['C', 'B'] == [s.type for s in base.pipeline] and [s.type for s in out.t] == ['A', 'B']
    assert 'old' not in base and base.lr == 5


def test_a_script_is_a_config_without_values():
    text = "import os\ndef main(x=os.system('touch pwned')): return open('pwned', 'w')\nif __name__ == '__main__': main()\na = 1"
    assert read_text(text) == dict(a=1) and not Path('pwned').exists()


def test_templates(monkeypatch):
    monkeypatch.setenv('LEARNDET_X', '12'); monkeypatch.delenv('LEARNDET_Y', raising=False)
    base = ConfigDict(scale=(1, 2), name='n')
    text = '''
a = {{_base_.scale}}
b = '{{_base_.name}}-{{ fileBasenameNoExtension }}'
c = {{'$LEARNDET_X:3'}}
d = {{$LEARNDET_Y:3}}
e = 'x/{{$LEARNDET_X}}/{{$LEARNDET_Y:none}}'
f = '{{fileDirname}}|{{fileBasename}}|{{fileExtname}}'
g = '{{not a template}}'
'''
    cfg = Reader(text, 'dir/my.py', base).read(parse_python(text, 'my.py'))
    assert dict(cfg) == dict(a=(1, 2), b='n-my', c=12, d=3, e='x/12/none', f='dir|my.py|.py', g='{{not a template}}')
    with pytest.raises(ConfigError, match='LEARNDET_Y is not set'): read_text("a = '{{$LEARNDET_Y}}'")
    with pytest.raises(ConfigError, match='nme'): Reader("a = {{_base_.nme}}", base=base).read(parse_python("a = {{_base_.nme}}", 'x'))


def test_config_dict_is_a_dict():
    import copy, json, pickle
    cfg = ConfigDict(a=dict(b=[dict(c=1), (dict(d=2),)]))
    assert cfg.a.b[0].c == 1 and cfg.a.b[1][0].d == 2 and isinstance(cfg.a.b[1], tuple)
    for other in (copy.copy(cfg), copy.deepcopy(cfg), pickle.loads(pickle.dumps(cfg)), cfg.to_dict()): assert other == cfg
    assert json.loads(json.dumps(cfg)) == dict(a=dict(b=[dict(c=1), [dict(d=2)]]))
    assert type(cfg.to_dict()['a']) is dict and dict(**cfg)['a'] is cfg.a and 'a' in dir(cfg) and not hasattr(cfg, 'z')
    del cfg.a.b
    assert cfg == dict(a={}) and cfg.pop('zz', 5) == 5
    with pytest.raises(KeyError): cfg.pop('zz')
