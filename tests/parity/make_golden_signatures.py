"""What the constructors of MMDetection 3.3's task modules and losses take: names, order, defaults.

    LEARNDET_MMDET=<folder with mmdet 3.3> python tests/parity/make_golden_signatures.py
writes golden_signatures.json, which `test_signatures.py` compares with ours.
"""
import inspect
import json
from pathlib import Path

import mmdet_reference

FILE = Path(__file__).parent / 'golden_signatures.json'
FAMILIES = 'mmdet.models.task_modules.', 'mmdet.models.losses.'


def plain(value):
    "A default as JSON has it."
    if isinstance(value, (tuple, list)): return [plain(v) for v in value]
    return {k: plain(v) for k, v in value.items()} if isinstance(value, dict) else value


def signature(cls):
    "[name, default] of every argument of a constructor; [name] where it has no default. What `**kwargs` swallows is not said."
    arguments = list(inspect.signature(cls.__init__).parameters.values())[1:]
    named = [a for a in arguments if a.kind not in (a.VAR_POSITIONAL, a.VAR_KEYWORD)]
    return [[a.name] if a.default is a.empty else [a.name, plain(a.default)] for a in named]


def theirs():
    "Name -> family and signature of every task module and loss that MMDetection registers."
    mmdet_reference.load()
    from mmdet.registry import MODELS, TASK_UTILS
    found = {}
    for registry in (TASK_UTILS, MODELS):
        for name, cls in registry.module_dict.items():
            family = next((cls.__module__.removeprefix(f) if 'losses' in f else cls.__module__.removeprefix(f).split('.')[0]
                           for f in FAMILIES if cls.__module__.startswith(f)), None)
            if family: found[name] = [family if 'task_modules' in cls.__module__ else 'losses', signature(cls)]
    return dict(sorted(found.items(), key=lambda item: (item[1][0], item[0])))


if __name__ == '__main__':
    rows = [f'{json.dumps(name)}: {json.dumps(value)}' for name, value in theirs().items()]
    FILE.write_text('{\n' + ',\n'.join(rows) + '\n}\n', encoding='utf-8')
