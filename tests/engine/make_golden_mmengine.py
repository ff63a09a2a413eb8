"Writes golden_mmengine.json: what MMEngine's schedulers and parameter groups do. Run where mmengine and torch are installed."
import json
import warnings
from pathlib import Path
import mmengine
import mmengine.optim                                                # registers the schedulers
import torch
from mmengine.optim import DefaultOptimWrapperConstructor
from mmengine.registry import PARAM_SCHEDULERS
from torch import nn

SCHEDULES = [
    [dict(type='LinearLR', start_factor=.001, by_epoch=False, begin=0, end=10),
     dict(type='MultiStepLR', by_epoch=True, begin=0, end=24, milestones=[16, 22], gamma=.1)],
    [dict(type='ConstantLR', factor=.25, begin=2, end=9)],
    [dict(type='StepLR', step_size=4, gamma=.5, begin=1, end=15)],
    [dict(type='ExponentialLR', gamma=.9, begin=3, end=12)],
    [dict(type='CosineAnnealingLR', T_max=7, eta_min=1e-3, begin=0, end=30)],
    [dict(type='CosineAnnealingLR', eta_min_ratio=.05, begin=5, end=20)],
    [dict(type='PolyLR', power=.9, eta_min=1e-4, begin=0, end=20)],
    [dict(type='LinearLR', start_factor=.1, end_factor=.5, begin=4, end=12)],
    [dict(type='LinearMomentum', start_factor=.5, begin=0, end=8), dict(type='CosineAnnealingMomentum', eta_min=.7, begin=8, end=20)],
    [dict(type='LinearLR', start_factor=.2, begin=0, end=5), dict(type='PolyLR', power=2., begin=5, end=15),
     dict(type='StepLR', step_size=3, gamma=.3, begin=15, end=25), dict(type='MultiStepMomentum', milestones=[4, 4, 9], gamma=.8)]]

RULES = [
    dict(norm_decay_mult=0.), dict(bias_lr_mult=2., bias_decay_mult=0.), dict(flat_decay_mult=.5), dict(dwconv_decay_mult=.1),
    dict(norm_decay_mult=0., bias_decay_mult=.3, flat_decay_mult=.5, dwconv_decay_mult=.1, bias_lr_mult=3.),
    dict(custom_keys={'backbone': dict(lr_mult=.1, decay_mult=1.), 'backbone.dw': dict(decay_mult=.2), 'norm': dict(lr_mult=7.)}),
    dict(custom_keys={'head.bias': dict(lr_mult=5.)}, norm_decay_mult=0.)]


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.ModuleDict(dict(conv=nn.Conv2d(4, 4, 3), norm=nn.BatchNorm2d(4), dw=nn.Conv2d(4, 4, 3, groups=4)))
        self.neck = nn.ModuleDict(dict(gn=nn.GroupNorm(2, 4), ln=nn.LayerNorm(4), frozen=nn.Linear(4, 4)))
        self.neck['frozen'].weight.requires_grad = False
        self.head, self.scale = nn.Conv2d(4, 2, 1), nn.Parameter(torch.ones(3))


def optimizer_of(adam):
    ps = [nn.Parameter(torch.zeros(1)) for _ in range(2)]
    groups = [dict(params=[ps[0]]), dict(params=[ps[1]], lr=.3)]
    return torch.optim.AdamW(groups, .02) if adam else torch.optim.SGD(groups, .02, momentum=.9)


def values_of(opt, adam):
    return [g['lr'] for g in opt.param_groups] + [g['betas'][0] if adam else g['momentum'] for g in opt.param_groups]


def schedule(cfgs, adam, steps=26):
    opt, out = optimizer_of(adam), []
    pieces = [PARAM_SCHEDULERS.get(c['type'])(opt, **{k: v for k, v in c.items() if k != 'type'}) for c in cfgs]
    for _ in range(steps):
        out.append(values_of(opt, adam))
        opt.step()
        for piece in pieces: piece.step()
    return out


def groups(rule):
    model = Model()
    make = DefaultOptimWrapperConstructor(dict(optimizer=dict(type='SGD', lr=.02, weight_decay=1e-4)), rule)
    opt = make(model).optimizer
    names = {id(p): n for n, p in model.named_parameters()}
    return {names[id(p)]: [g['lr'], g['weight_decay']] for g in opt.param_groups for p in g['params']}


if __name__ == '__main__':
    warnings.simplefilter('ignore')
    out = dict(made_with=f'mmengine {mmengine.__version__}', groups=[dict(rule=r, groups=groups(r)) for r in RULES],
               schedules=[dict(cfgs=c, adam=a, values=schedule(c, a)) for c in SCHEDULES for a in (False, True)])
    Path(__file__).with_name('golden_mmengine.json').write_text(json.dumps(out))
