"Maps and gradients of every kind of backbone are those of MMDetection 3.3 (stored by make_mmdet_golden_backbones.py)."
import json
from pathlib import Path

import pytest
import torch

from backbone_cases import CASES, PARITY, facts
from learndet.core.fast_paths import use_torchvision
from learndet.core.registry import MODELS

pytestmark = pytest.mark.skipif(not (PARITY / 'inputs.py').is_file(), reason='the weight rule (inputs.py) is not there; LEARNDET_PARITY names its folder')
GOLDEN = json.loads(Path(__file__).with_name('golden_backbones.json').read_text())

def same(ours, theirs, what):
    assert ours['shape'] == theirs['shape'], what
    size = max(theirs['size'], 1e-12)
    for a, b in zip([ours['size'], *ours['values']], [theirs['size'], *theirs['values']]):
        assert abs(a - b) <= 1e-5 * (abs(b) + size), (what, a, b)

def compare(name):
    ours, theirs = facts(MODELS.build(CASES[name])), GOLDEN[name]
    assert len(ours['maps']) == len(theirs['maps'])
    for i, pair in enumerate(zip(ours['maps'], theirs['maps'])): same(*pair, f'map {i}')
    same(ours['grad'], theirs['grad'], 'gradient of the picture')
    for key in theirs['grads']: same(ours['grads'][key], theirs['grads'][key], key)

@pytest.mark.parametrize('name', CASES)
def test_maps_and_gradients(name): compare(name)

@pytest.mark.parametrize('name', ['resnet50_dcn', 'resnet50_dcnv2', 'resnext50_dcn'])
def test_deformable_convolutions_without_torchvision(name):
    with use_torchvision(False): compare(name)
