"Writes golden_backbones.json with MMDetection 3.3's own backbones: LEARNDET_MMDET=folder python tests/parity/make_mmdet_golden_backbones.py"
import copy
import json
import sys
from pathlib import Path

import torch
from torch import nn
from torchvision.ops import deform_conv2d

sys.path.insert(0, str(Path(__file__).parent))
import backbone_cases
import mmdet_reference

class DCN(nn.Module):
    "mmcv's layer on torchvision's operator, since mmcv-lite has no compiled ones; `numbers` a tap: 2 offsets, 3 with a weight."
    numbers = 2
    def __init__(self, in_channels, out_channels, kernel_size, stride=1, padding=0, dilation=1, groups=1, deform_groups=1, bias=False):
        super().__init__()
        self.how = dict(stride=stride, padding=padding, dilation=dilation)
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels // groups, kernel_size, kernel_size))
        self.conv_offset = nn.Conv2d(in_channels, deform_groups * self.numbers * kernel_size ** 2, kernel_size, **self.how)

    def forward(self, x):
        out = self.conv_offset(x)
        if self.numbers == 2: return deform_conv2d(x, out, self.weight, **self.how)
        y, z, mask = out.chunk(3, dim=1)
        return deform_conv2d(x, torch.cat([y, z], dim=1), self.weight, mask=mask.sigmoid(), **self.how)

class DCNv2(DCN): numbers = 3

if __name__ == '__main__':
    mmdet_reference.load()
    from mmengine.registry import MODELS as ENGINE
    from mmdet.registry import MODELS
    import mmdet.models
    torch.set_num_threads(1)
    for cls in (DCN, DCNv2): ENGINE.register_module(cls.__name__, module=cls, force=True)
    golden = {name: backbone_cases.facts(MODELS.build(copy.deepcopy(cfg))) for name, cfg in backbone_cases.CASES.items()}
    lines = ',\n'.join(f'{json.dumps(name)}: {json.dumps(facts)}' for name, facts in golden.items())
    Path(__file__).with_name('golden_backbones.json').write_text('{' + lines + '}\n')
