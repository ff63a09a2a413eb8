"""Priors and coders give MMDetection 3.3's numbers.

Where MMDetection is installed (LEARNDET_MMDET names its folder) 200 cases of every component are compared, elsewhere the
stored fingerprints of a dozen. We differ on purpose where it answers with infinity or nothing at all (priors without a size), and
only there; such places are not compared, but ours must be finite.
"""
import json
import warnings
from pathlib import Path

import pytest
import torch

import mmdet_reference
from priors_coders_cases import COMPONENTS, fingerprint, means, ours, theirs

GOLDEN = json.loads((Path(__file__).parent / 'golden_priors_coders.json').read_text(encoding='utf-8'))
pytestmark = pytest.mark.filterwarnings('ignore')           # of scale_major=True, and of MMDetection's own


@pytest.mark.skipif(not mmdet_reference.available(),
                    reason='LEARNDET_MMDET names no folder with MMDetection 3.3; its stored numbers are compared instead')
@pytest.mark.parametrize('name', COMPONENTS)
def test_equal_to_mmdetection(name):
    mine, other = ours(), theirs()
    for seed in range(200):
        for k, (a, b) in enumerate(zip(COMPONENTS[name](mine, seed), COMPONENTS[name](other, seed), strict=True)):
            assert a.shape == b.shape and a.isfinite().all(), (seed, k, a.shape, b.shape)
            known = b.isfinite()
            assert torch.allclose(a[known].float(), b[known].float(), rtol=1e-5, atol=2e-4), (seed, k, (a - b)[known].abs().max())


@pytest.mark.parametrize('name', COMPONENTS)
def test_equal_to_stored_numbers(name):
    assert len(GOLDEN[name]) >= 12
    for seed, stored in enumerate(GOLDEN[name]):
        tensors = COMPONENTS[name](ours(), seed)
        assert len(tensors) == len(stored)
        for k, (t, wanted) in enumerate(zip(tensors, stored)):
            assert list(t.shape) == wanted['shape'], (seed, k)
            got = means(t.double().flatten(), wanted['holes'])
            scale = wanted['means'][-1] if wanted['means'] else 0
            assert got == pytest.approx(wanted['means'], rel=1e-4, abs=1e-5 * scale + 1e-6), (seed, k)


def test_the_fingerprint_sees_a_change():
    "One coordinate of one box, half a pixel."
    tensors = COMPONENTS['AnchorGenerator'](ours(), 1)
    before = fingerprint(tensors)
    tensors[3].view(-1)[1] += .5
    changed = [k for k, (a, b) in enumerate(zip(before, fingerprint(tensors))) if a['means'] != pytest.approx(b['means'], rel=1e-4)]
    assert changed == [3]
