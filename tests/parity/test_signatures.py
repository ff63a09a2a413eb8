"""Constructors take MMDetection 3.3's arguments: the same names in the same order with the same defaults.

Where MMDetection takes a config, `dict(type=X)`, as a default, ours is None, which stands for X(): constructors take ready objects.
Arguments of our own stand behind MMDetection's. Everything else that differs is listed here with its reason.
"""
import importlib
import json

import pytest

import mmdet_reference
from learndet._modidx import d as index
from make_golden_signatures import FILE, signature, theirs

GOLDEN = json.loads(FILE.read_text(encoding='utf-8'))
WHERE = {name.removeprefix(f'{module}.'): module for module, names in index['syms'].items() for name in names}

tracking = 'tracking; no detector uses it'
NOT_HERE = dict.fromkeys(['AppearanceFreeLink', 'CameraMotionCompensation', 'InterpolateTracklets', 'KalmanFilter', 'L2Loss', 'MarginL2Loss',
                          'MultiPosCrossEntropyLoss', 'TripletLoss'], tracking)
NOT_HERE |= dict.fromkeys(['CrossEntropyCustomLoss', 'FocalCustomLoss'], "belongs to V3Det's 13,204 classes")
NOT_HERE |= dict.fromkeys(['MultiInstanceAssigner', 'MultiInsRandomSampler'], 'belongs to CrowdDet, two objects for each proposal')
NOT_HERE |= dict(AssociativeEmbeddingLoss="belongs to CornerNet's pairs of corners", BboxOverlaps2D_GLIP='belongs to GLIP')

base = 'MMDetection takes it, too, as **kwargs for the base class'
MORE = {name: {'use_box_type': base} for name, (family, _) in GOLDEN.items() if family == 'coders'}
MORE['LegacyDeltaXYWHBBoxCoder'] |= dict.fromkeys(['clip_border', 'add_ctr_clamp', 'ctr_clamp'], 'inherited from the modern coder, not looked at')
MORE['CombinedSampler'] = dict.fromkeys(['num', 'pos_fraction'], base)
MORE['ApproxMaxIoUAssigner'] = {'perm_repeat_gt_cfg': 'inherited from MaxIoUAssigner'}

BEFORE = {'TopkHungarianAssigner': ['topk', 'iou_calculator']}          # MMDetection: *args, for TaskAlignedAssigner's constructor

of_the_whole = 'a part of a CombinedSampler has it from the whole'
OPTIONAL = {name: dict.fromkeys(['num', 'pos_fraction'], of_the_whole)
            for name in ('RandomSampler', 'InstanceBalancedPosSampler', 'IoUBalancedNegSampler', 'OHEMSampler')}
for name in ('OHEMSampler', 'ScoreHLRSampler'): OPTIONAL.setdefault(name, {})['context'] = 'the head calls the sampler, not the other way round'


def ours(name): return signature(getattr(importlib.import_module(WHERE[name]), name))


def same(wanted, got, optional):
    "Whether an argument of ours is MMDetection's."
    if wanted[0] != got[0]: return False
    if len(wanted) == 1: return len(got) == 1 or (wanted[0] in optional and got[1] is None)
    if isinstance(wanted[1], dict): return len(got) == 2 and got[1] is None
    return wanted[1:] == got[1:]


def differences(name, mine):
    "What is wrong with our signature, one sentence each."
    wanted, before = GOLDEN[name][1], BEFORE.get(name, [])
    if [a[0] for a in mine[:len(before)]] != before: return [f'begins with {mine[:len(before)]}, not with {before}']
    mine = mine[len(before):]
    wrong = [f'argument {i}: {theirs} there, {got} here' for i, (theirs, got) in enumerate(zip(wanted, mine + [[None]] * len(wanted)))
             if not same(theirs, got, OPTIONAL.get(name, {}))]
    return wrong + [f'{a[0]} is not known there' for a in mine[len(wanted):] if a[0] not in MORE.get(name, {})]


@pytest.mark.parametrize('name', [name for name in GOLDEN if name not in NOT_HERE])
def test_arguments_are_those_of_mmdetection(name):
    assert name in WHERE, f'no chapter exports {name}'
    assert not differences(name, ours(name))


def test_what_is_not_here_is_listed_once():
    assert set(NOT_HERE) <= set(GOLDEN) and not set(NOT_HERE) & set(WHERE)
    assert set(MORE) | set(OPTIONAL) | set(BEFORE) <= set(GOLDEN) - set(NOT_HERE)


def test_exceptions_are_needed():
    for name, extra in MORE.items(): assert {a[0] for a in ours(name)} >= set(extra) and not {a[0] for a in GOLDEN[name][1]} & set(extra), name
    for name, optional in OPTIONAL.items(): assert all([argument] in GOLDEN[name][1] for argument in optional), name


def test_a_changed_argument_is_seen():
    mine = ours('MaxIoUAssigner')
    assert differences('MaxIoUAssigner', mine[:2] + [['min_pos_iou', .1]] + mine[3:]) == ["argument 2: ['min_pos_iou', 0.0] there, ['min_pos_iou', 0.1] here"]
    assert len(differences('MaxIoUAssigner', mine[:-1])) == 1
    assert len(differences('MaxIoUAssigner', [mine[1], mine[0], *mine[2:]])) == 2
    assert differences('MaxIoUAssigner', mine + [['more', 1]]) == ['more is not known there']


@pytest.mark.skipif(not mmdet_reference.available(), reason='LEARNDET_MMDET names no folder with MMDetection 3.3; what it takes is stored')
@pytest.mark.filterwarnings('ignore')
def test_what_is_stored_is_what_mmdetection_takes():
    assert json.loads(json.dumps(theirs())) == GOLDEN
