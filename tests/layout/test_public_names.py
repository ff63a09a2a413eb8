"Every public name says what it takes, in shapes and units, what it does, and from which paper it comes."
import ast
import importlib
import inspect
import re

import nbformat
import pytest

from notebooks import ROOT, notebooks
from test_layout import MODULES, PACKAGE

# Types that do not say what a value means: a tensor needs a shape, a number a unit, a text its choices.
PLAIN = set('Tensor ndarray list dict tuple set int float bool str bytes object None Any Sequence Iterable Iterator Callable Optional Union'.split())
# Arguments that mean the same wherever they occur, and the one place that explains them; torch's own are in its reference.
ONE_MEANING = dict(
    conv_cfg='models.layers.conv_module ConvModule.__init__', norm_cfg='models.layers.conv_module ConvModule.__init__',
    act_cfg='models.layers.conv_module ConvModule.__init__', init_cfg='models.layers.init BaseModule.__init__',
    results='data.transforms.loading keep_instances', idx='data.base_dataset BaseDetDataset.get_data_info', ax='core.draw show_bboxes',
    reduction='task_modules.losses.reduction weight_reduce_loss', avg_factor='task_modules.losses.reduction weight_reduce_loss',
    loss_weight='task_modules.losses.reduction WeightedLoss.__init__', seed='data.base_dataset BaseDetDataset.get_sample',
    batch_idx='engine.runner TrainLoop.run_iter', checkpoint='engine.hooks call_hooks', metrics='engine.hooks call_hooks',
    data_batch='engine.hooks call_hooks', outputs='engine.hooks call_hooks', runner='engine.hooks call_hooks')
TORCH = set('in_channels out_channels kernel_size stride padding dilation groups bias padding_mode in_features out_features'.split())    # its layers'
FAMILIES = {'Reader': ('eval_', 'run_')}       # methods that `evaluate` and `run` find by the kind of a node: one for each piece of syntax
STATE = ('state_dict', 'load_state_dict')      # the pair that torch describes


class Public:
    "A public function or method, with all that is known about it."
    def __init__(self, module, lines, node, cls):
        self.module, self.lines, self.node, self.cls = module, lines, node, cls
        self.name = f'{cls.__name__}.{node.name}' if cls else node.name
        self.doc = ast.get_docstring(node) or (cls.__doc__ if node.name == '__init__' else '') or ''
        a = node.args
        self.args = [x for x in a.posonlyargs + a.args + a.kwonlyargs if x.arg not in ('self', 'cls')]

    def __str__(self): return f'{self.module}:{self.node.lineno} {self.name}'

    def has_comment(self, arg): return '#' in self.lines[arg.lineno - 1]

    def type_speaks(self, arg):
        "Whether the annotation names something of our own, or a class with a meaning, such as Path."
        if arg.annotation is None: return False
        nodes = list(ast.walk(arg.annotation))
        words = {n.id for n in nodes if isinstance(n, ast.Name)} | {n.attr for n in nodes if isinstance(n, ast.Attribute)}
        words |= {n.value for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, str)}
        return bool(words - {'np', 'nn', 'torch', 'ast', 'os'}) and not words & PLAIN

    def bases(self):
        return self.cls.__mro__[1:-1] if self.cls else ()

    def inherited(self):
        "Whether a base class has the method, and so its explanation; torch leaves `forward` to us."
        name = self.node.name
        if name == '__init__' or not self.cls: return False
        return any(name in vars(b) for b in self.bases() if name != 'forward' or b.__module__.startswith('learndet'))

    def from_bases(self):
        "Arguments of the constructors of our own base classes."
        owners = [b for b in self.bases() if b.__module__.startswith('learndet') and '__init__' in vars(b)]
        return {name for b in owners for name in inspect.signature(b.__init__).parameters} if self.node.name == '__init__' else set()

    def unexplained(self):
        if self.inherited() or self.node.name in STATE or self.is_setter() or self.in_family(): return []
        said = {word for quoted in re.findall(r'`([^`]*)`', self.doc) for word in re.findall(r'\w+', quoted)}
        known = {*ONE_MEANING, *TORCH, *said, *self.from_bases()}
        return [a.arg for a in self.args if a.arg not in known and not self.has_comment(a) and not self.type_speaks(a)]

    def is_setter(self): return any(getattr(d, 'attr', '') == 'setter' for d in self.node.decorator_list)
    def in_family(self): return bool(self.cls) and self.node.name.startswith(FAMILIES.get(self.cls.__name__, '\0'))

    def silent(self):
        "No docstring; a method of one line, and a property, say themselves what they do."
        short = self.node.body[0].lineno == self.node.end_lineno
        is_property = any(getattr(d, 'id', '') == 'property' for d in self.node.decorator_list)
        return not (self.doc or self.inherited() or self.node.name in STATE or self.in_family() or self.is_setter() or (self.cls and (short or is_property)))


def publics(path):
    "Functions, methods of classes, and methods that came by @patch."
    dotted = '.'.join(path.relative_to(PACKAGE.parent).with_suffix('').parts)
    module, text = importlib.import_module(dotted), path.read_text(encoding='utf-8')
    name, lines = dotted.removeprefix('learndet.'), text.splitlines()
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith('_'):
            patched = any(getattr(d, 'id', '') == 'patch' for d in node.decorator_list)
            cls = getattr(module, getattr(node.args.args[0].annotation, 'id', ''), None) if patched else None
            if not (patched and cls is None) and not (cls and cls.__name__.startswith('_')): yield Public(name, lines, node, cls)
        elif isinstance(node, ast.ClassDef) and not node.name.startswith('_'):
            for method in node.body:
                if isinstance(method, ast.FunctionDef) and (not method.name.startswith('_') or method.name in ('__init__', '__call__')):
                    yield Public(name, lines, method, getattr(module, node.name))


@pytest.fixture(scope='module')
def everything(): return [public for path in MODULES for public in publics(path)]


def test_every_argument_is_explained(everything):
    "Shape, format, unit, choices: beside the argument, or in the one place that ONE_MEANING names."
    bare = [f'{public}({", ".join(names)})' for public in everything if (names := public.unexplained())]
    assert not bare, '\n'.join(bare)


def test_what_has_one_meaning_is_explained_once(everything):
    "An argument that is left out everywhere else is explained where the table says."
    by_place = {f'{public.module} {public.name}': public for public in everything}
    gone = [f'{name}: {place}' for name, place in ONE_MEANING.items() if place not in by_place]
    assert not gone, gone
    def explains(public, name):
        texts = [public.lines[a.lineno - 1] for a in public.node.args.args + public.node.args.kwonlyargs if a.arg == name]
        notes = [line.partition('#')[2] for line in public.lines[public.node.lineno - 1:public.node.body[0].lineno]]
        return any('#' in text for text in texts) or any(re.search(rf'\b{name}\b', note) for note in notes) or name in public.doc
    bare = [f'{name}: {place}' for name, place in ONE_MEANING.items() if not explains(by_place[place], name)]
    assert not bare, bare


def test_every_method_says_what_it_does(everything):
    silent = [str(public) for public in everything if public.silent()]
    assert not silent, '\n'.join(silent)


SOURCE = re.compile(r'arXiv:\d|\b(sec|eq|app)\. |appendix|\b(19|20)\d\d\b')
METHODS = [p for room in ('01_structures', '03_task_modules', '04_models', '06_evaluation') for p in notebooks(f'nbs/{room}')]


@pytest.mark.parametrize('path', METHODS, ids=lambda p: str(p.relative_to(ROOT / 'nbs')))
def test_a_chapter_about_a_paper_exports_its_name(path):
    "A chapter that opens with a paper names it in the docstring of something it exports, for readers who never see the chapter."
    cells = nbformat.read(path, 4).cells
    if 'arXiv:' not in cells[0].source: return
    exported = [c.source for c in cells if c.cell_type == 'code' and c.source.startswith('#| export')]
    nodes = [n for text in exported for n in ast.parse(text).body if isinstance(n, (ast.ClassDef, ast.FunctionDef)) and not n.name.startswith('_')]
    assert not nodes or any(SOURCE.search(ast.get_docstring(n) or '') for n in nodes)


def test_the_test_can_fail():
    source = 'def f(x: Tensor, y: "Report", *, k=3): return x\n'
    public = Public('m', source.splitlines(), ast.parse(source).body[0], None)
    assert public.unexplained() == ['x', 'k'] and public.silent()
    source = 'def f(\n    x: Tensor,    # (N, 4) xyxy, pixels\n    k: int = 3,\n):\n    "The `k` best."\n'
    public = Public('m', source.splitlines(), ast.parse(source).body[0], None)
    assert public.unexplained() == [] and not public.silent()
