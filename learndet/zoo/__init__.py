"One notebook a method; `from_mmdet` builds what an MMDetection config describes."


def __getattr__(name):
    "A method or a translation by its name: `learndet.zoo.from_mmdet`."
    if name.startswith('_'): raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    from ..core.registry import locate
    try: return locate(name)
    except LookupError as error: raise AttributeError(str(error)) from None
