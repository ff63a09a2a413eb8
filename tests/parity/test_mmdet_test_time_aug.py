"""DetTTAModel merges as MMDetection 3.3's does: boxes, scores and classes of random views, by `nms` and by `soft_nms`.

We differ on purpose in what carries the result: the first view that was *not* mirrored, where MMDetection takes the first view, so that
ground truth that travels with it lies where the boxes lie. Their operators come from `mmcv_operators`, in a process of their own.
"""
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import mmdet_reference
from learndet.models.detectors.test_time_aug import DetTTAModel
from learndet.structures.instance_data import DetDataSample, InstanceData

live = pytest.mark.skipif(not mmdet_reference.available(), reason='LEARNDET_MMDET names no folder with MMDetection 3.3')
SIZE, CONFIGS = (60, 96), [dict(nms=dict(type='nms', iou_threshold=.5), max_per_img=100), dict(nms=dict(type='nms', iou_threshold=.3), max_per_img=7),
                           dict(nms=dict(type='soft_nms', iou_threshold=.3, min_score=.05), max_per_img=50)]


def views(seed, sample, instances):
    "Four views, of up to fifteen boxes each; `sample` and `instances` are the classes of either side."
    g, made = torch.Generator().manual_seed(seed), []
    for direction in (None, 'horizontal', 'vertical', 'diagonal'):
        n = int(torch.randint(0, 16, (1,), generator=g)) * (seed % 5 != 4)                     # sometimes nobody finds anything
        boxes = torch.rand(n, 4, generator=g) * 30
        boxes[:, 2:] += boxes[:, :2] + 4
        found = instances(bboxes=boxes, scores=torch.rand(n, generator=g), labels=torch.randint(0, 3, (n,), generator=g))
        made.append(sample(metainfo=dict(ori_shape=SIZE, flip=direction is not None, flip_direction=direction)))
        made[-1].pred_instances = found
    return made


THEIRS = '''
import json, sys, warnings; warnings.simplefilter('ignore')
sys.path[:0] = [sys.argv[1]]; sys.path.append(sys.argv[2])
import mmcv_operators; mmcv_operators.install()
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData
from mmdet.models.test_time_augs.det_tta import DetTTAModel
from mmdet.structures import DetDataSample
from test_mmdet_test_time_aug import CONFIGS, views
import torch
class Nobody(torch.nn.Module):
    def test_step(self, data): pass
rows = []
for seed in range(20):
    for cfg in CONFIGS:
        merged, = DetTTAModel(ConfigDict(cfg), module=Nobody()).merge_preds([views(seed, DetDataSample, InstanceData)])
        found = merged.pred_instances
        rows.append([found.bboxes.tolist(), found.scores.tolist(), found.labels.tolist()])
print('ROWS', json.dumps(rows))
'''


@live
def test_the_merge_is_mmdetections():
    here = str(Path(__file__).parent)
    done = subprocess.run([sys.executable, '-c', THEIRS, here, os.environ['LEARNDET_MMDET']], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = iter(json.loads(done.stdout.partition('ROWS')[2]))
    module, compared = type('Nobody', (torch.nn.Module,), dict(test_step=lambda self, data: data['data_samples']))(), 0
    for seed in range(20):
        for cfg in CONFIGS:
            batch = dict(inputs=[[0] * 4], data_samples=[views(seed, DetDataSample, InstanceData)])
            ours = DetTTAModel(tta_cfg=cfg, module=module).test_step(batch)[0].pred_instances
            bboxes, scores, labels = next(rows)
            assert ours.labels.tolist() == labels
            assert torch.allclose(ours.bboxes, torch.tensor(bboxes).reshape(-1, 4), atol=1e-4) and torch.allclose(ours.scores, torch.tensor(scores), atol=1e-5)
            compared += len(labels)
    assert compared > 500
