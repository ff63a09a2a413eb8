"Registry and build: names, scopes, errors with paths (REG-1..11, CFG-3; user needs 5a, 6a, 6b, rows 81, 82, 90)."
import sys
import pytest
import torch
from learndet.core import registry as R
from learndet.core.registry import MODELS, TASK_UTILS, Registry, build, custom_imports, export_index, locate


@pytest.fixture
def clean():
    "Tables as they were before the test."
    before = {kind: dict(root.module_dict) for kind, root in R.ROOTS.items()}
    yield
    for kind, root in list(R.ROOTS.items()):
        root.module_dict.clear(), root.module_dict.update(before.get(kind, {}))


class Part:
    def __init__(self, size=1, inner=None, norm_cfg=None): self.size, self.inner, self.norm_cfg = size, inner, norm_cfg

class Whole:
    def __init__(self, parts, **more): self.parts, self.more = parts, more


def test_register_by_decorator_by_call_and_under_another_name(clean):
    MODELS.register_module(module=Part), MODELS.register_module('P', module=Part)
    @TASK_UTILS.register_module()
    def make_part(size): return Part(size)
    assert MODELS.get('Part') is MODELS.get('P') is Part
    assert build(dict(type='make_part', size=3)).size == 3            # found in another family


def test_the_same_class_again_replaces_and_says_so(clean, capsys):
    for _ in range(2):
        @MODELS.register_module()
        class Cell: pass
    assert 'Cell was defined again' in capsys.readouterr().out and MODELS.get('Cell') is Cell


def test_another_class_under_a_taken_name_names_both(clean):
    MODELS.register_module(module=Part)
    other = type('Part', (), {'__module__': 'somebody.else'})
    with pytest.raises(KeyError, match=r'already registered.*test_registry\.Part.*somebody\.else\.Part'): MODELS.register_module(module=other)
    assert MODELS.register_module(force=True, module=other) is MODELS.get('Part')


def test_an_exported_name_is_taken_from_the_start(clean):
    with pytest.raises(KeyError, match='learndet.core.registry.Registry'):
        MODELS.register_module('Registry', module=Part)


def test_children_parents_and_scopes():
    root = Registry('model'); lab = Registry('model', parent=root, scope='lab'); bench = Registry('model', parent=lab, scope='bench')
    root.register_module(module=Part), lab.register_module(module=Whole)
    assert bench.get('Part') is Part and bench.get('Whole') is Whole and bench.root is root
    assert root.lookup('Whole') is None and root.lookup('lab.Whole') is Whole and root.lookup('mmdet.Part') is Part
    with pytest.raises(ValueError, match='needs a scope'): Registry('model', parent=root)


def test_leaves_first_and_the_config_is_never_written(clean):
    order = []
    class Loud:
        def __init__(self, name, children=()): order.append(name); self.children = children
    cfg = dict(type=Loud, name='root', children=[dict(type=Loud, name='a', children=(dict(type=Loud, name='a1'),)), dict(type=Loud, name='b')])
    tree = build(cfg)
    assert order == ['a1', 'a', 'b', 'root'] and isinstance(tree.children[0].children, tuple)
    assert isinstance(cfg['children'][0], dict) and cfg['children'][0]['type'] is Loud


def test_recipes_stay_dicts_and_are_copied():
    cfg = dict(type=Part, norm_cfg=dict(type='BN', layers=[dict(type='nothing')]))
    part = build(cfg)
    assert part.norm_cfg == cfg['norm_cfg'] and part.norm_cfg['layers'] is not cfg['norm_cfg']['layers']


def test_objects_numbers_and_strings_pass_through():
    tensor = torch.ones(2)
    assert build(dict(a=tensor))['a'] is tensor and build('text') == 'text' and build(None) is None and build([]) == []


def test_torch_names():
    assert MODELS.get('Conv2d') is torch.nn.Conv2d and MODELS.get('torch.optim.AdamW') is torch.optim.AdamW
    assert build(dict(type='nn.Linear', in_features=2, out_features=3)).weight.shape == (3, 2)
    for name in ('functional', '__name__', 'nn.init', 'os.system', 'builtins.eval', 'torch.load'):
        with pytest.raises(LookupError): MODELS.get(name)


@pytest.mark.parametrize('cfg, words', [
    (dict(type='Prt'), ['model: no component is called', "'Prt'", 'model registry', 'nearest', 'Part']),
    (dict(type='Part', sise=3), ['model.sise: Part has no argument', "did you mean 'size'"]),
    (dict(type='Part', inner=dict(type='Part', sise=3)), ['model.inner.sise']),
    (dict(type='Whole', parts=[1, dict(type='Part', foo=3)]), ['model.parts[1].foo', 'It takes size, inner, norm_cfg']),
    (dict(type='Whole'), ['model: ', "'parts'"]),
    (dict(type='Part', size=1, nrm_cfg=1), ['model.nrm_cfg: Part has no argument', "did you mean 'norm_cfg'"]),
    (dict(type=3), ['model: `type` is a name or a class, got 3']),
    (dict(type='nn.Linear', in_features='x', out_features=2), ['model: ']),
    (dict(type='lab.Part'), ["nobody made a scope 'lab'"])])
def test_errors_carry_the_path(cfg, words, clean):
    MODELS.register_module(module=Part), MODELS.register_module(module=Whole)
    with pytest.raises(Exception) as error: build(cfg, where='model')
    for word in words: assert word in str(error.value)


def test_extra_arguments_are_allowed_where_they_are_taken():
    assert build(dict(type=Whole, parts=[], colour='red')).more == {'colour': 'red'}


def test_the_door_of_a_registry():
    part = Part()
    assert MODELS.build(part) is part and MODELS.build(dict(type=Part), size=5).size == 5
    assert MODELS.build(dict(type=Part, size=2), size=5).size == 2
    with pytest.raises(TypeError, match=r"write dict\(type='Part'\)"): MODELS.build('Part')
    with pytest.raises(KeyError, match='no `type`'): MODELS.build(dict(size=1))


def test_every_index_entry_is_a_public_name():
    index = export_index()
    assert 'Registry' in index and all('.' not in name and not name.startswith('_') for name in index)


def test_the_package_hands_out_exported_names():
    import learndet
    assert learndet.Registry is Registry and learndet.core.registry is R
    with pytest.raises(AttributeError, match='nearest: .*Registry'): learndet.Regstry


def test_names_registered_twice_in_two_families_are_refused_unless_one_is_asked(clean):
    MODELS.register_module('Same', module=Part), TASK_UTILS.register_module('Same', module=Whole)
    assert MODELS.get('Same') is Part and TASK_UTILS.get('Same') is Whole
    with pytest.raises(LookupError, match='registered twice'): R.HOOKS.get('Same')


def test_custom_imports(tmp_path, monkeypatch, capsys, clean):
    (tmp_path / 'own_parts_xyz.py').write_text('from learndet.core.registry import MODELS\n@MODELS.register_module()\nclass OwnPartXyz: pass\n')
    (tmp_path / 'broken_parts_xyz.py').write_text('import no_such_thing_xyz\n')
    monkeypatch.syspath_prepend(tmp_path), monkeypatch.chdir(tmp_path)
    with pytest.raises(LookupError, match='own_parts_xyz.py defines it, but was not imported'): build(dict(type='OwnPartXyz'))
    with pytest.raises(ImportError, match="import the module, 'own_parts_xyz'"): custom_imports('own_parts_xyz.OwnPartXyz')
    with pytest.raises(ImportError, match="failed: No module named 'no_such_thing_xyz'"): custom_imports(['broken_parts_xyz'])
    with pytest.raises(ImportError, match='there is no module'): custom_imports(['own_part_xyz'])
    assert custom_imports(['nowhere_xyz'], allow_failed_imports=True) == [] and 'Going on' in capsys.readouterr().out
    assert type(build(dict(type='OwnPartXyz'))).__name__ == 'OwnPartXyz'
    sys.modules.pop('own_parts_xyz', None)


def test_register_all_modules_is_idempotent():
    assert R.register_all_modules() == R.register_all_modules(init_default_scope=False) == len(export_index())


def test_the_seven_old_names():
    assert all(getattr(R, name) is MODELS for name in
               ('BACKBONES', 'NECKS', 'ROI_EXTRACTORS', 'SHARED_HEADS', 'HEADS', 'LOSSES', 'DETECTORS'))


def test_locate_reports_ambiguous_names():
    with pytest.raises(LookupError, match='twice, by a.b and by c.d'): locate('X', {'X': ['a.b', 'c.d']})


def test_a_misspelt_required_argument_of_a_base_class_is_named(clean):
    class Base:
        def __init__(self, num_classes, in_channels=1): pass
    class Head(Base):
        def __init__(self, num_classes, stacked=1, **kwargs): super().__init__(num_classes, **kwargs)
    with pytest.raises(TypeError, match=r"head.num_clases: Head has no argument 'num_clases', did you mean 'num_classes'"):
        build(dict(type=Head, num_clases=3), where='head')
    with pytest.raises(TypeError, match=r"head.in_chanels: .* did you mean 'in_channels'.* It takes num_classes, stacked, in_channels"):
        build(dict(type=Head, num_classes=3, in_chanels=3), where='head')
    assert isinstance(build(dict(type=Head, num_classes=3, in_channels=2)), Head)
