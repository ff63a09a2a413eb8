"""MMDetection 3.3's own task modules, where they are installed: the oracle of the parity tests.

`pip install --no-deps mmdet==3.3.0 mmengine==0.10.7 mmcv-lite==2.1.0 addict yapf terminaltables shapely` into a folder
named by LEARNDET_MMDET. mmcv-lite has no compiled operators: their names exist here and refuse to be called.
"""
import os, sys, types, importlib

def available() -> bool:
    where = os.environ.get('LEARNDET_MMDET', '')
    return bool(where) and os.path.isdir(os.path.join(where, 'mmdet'))

class _Missing:
    def __init__(self, name): self.name = name
    def __call__(self, *args, **kwargs): raise RuntimeError(f'mmcv.ops.{self.name} needs compiled operators')
    def __mro_entries__(self, bases): return (object,)

class _Ops(types.ModuleType):
    def __getattr__(self, name):
        if name.startswith('__'): raise AttributeError(name)
        return _Missing(name)

def load():
    where = os.environ['LEARNDET_MMDET']
    if where not in sys.path: sys.path.append(where)
    for name in ('mmcv.ops', 'mmcv.ops.nms', 'mmcv.ops.merge_cells', 'mmcv.ops.carafe', 'mmcv.ops.roi_align','mmcv.ops.modulated_deform_conv', 'mmcv.ops.deform_conv', 'mmcv.ops.multi_scale_deform_attn', 'mmcv.ops.point_sample'):
        m = _Ops(name); m.__path__ = []; sys.modules.setdefault(name, m)
    import mmdet.models.task_modules, mmdet.models.losses
    return importlib.import_module('mmdet')
