"The detection framework you can read."
__version__ = "0.1.0"


def __getattr__(name):
    "Any exported name, found through the export index: `learndet.RetinaHead`, `from learndet import MaxIoUAssigner`."
    if name.startswith('_'): raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    from importlib import import_module
    from importlib.util import find_spec
    if find_spec(f'{__name__}.{name}'): return import_module(f'{__name__}.{name}')
    from .core.registry import locate
    try: return locate(name)
    except LookupError as error: raise AttributeError(str(error)) from None
