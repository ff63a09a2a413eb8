"Many objects fit: the matrix of pairs is never whole. For 5,000 objects and 200,000 priors see `benchmarks/task_modules.py --aerial`."
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / 'benchmarks'))
from task_modules import peak_mib, random_objects

from learndet.task_modules.assigners.atss import ATSSAssigner
from learndet.task_modules.assigners.dynamic_soft_label import DynamicSoftLabelAssigner
from learndet.task_modules.assigners.max_iou_assigner import MaxIoUAssigner
from learndet.task_modules.assigners.sim_ota import SimOTAAssigner
from learndet.task_modules.assigners.task_aligned import TaskAlignedAssigner


def nothing(G, P): return {}


def predicted(G, P, K=3): return dict(gt_labels=torch.arange(G)[None] % K, bbox_preds=random_objects(1, P, (800, 1344), 3), cls_scores=torch.rand(1, P, K))


def from_points(G, P): return predicted(G, P) | dict(priors=torch.rand(P, 4) * 800 * torch.tensor([1, 1, .02, .02]))


G, P = 2000, 40_000                                              # their matrix would have 305 MiB
RULES = {    # name -> (assigner, sizes -> what it takes beyond priors, objects and regions)
    'max-IoU': (MaxIoUAssigner(.5, .4, ignore_iof_thr=.5), nothing),
    'ATSS': (ATSSAssigner(9, ignore_iof_thr=.5), lambda G, P: dict(num_level_priors=[P])),
    'SimOTA': (SimOTAAssigner(), from_points),
    'task-aligned': (TaskAlignedAssigner(13), predicted),
    'soft labels': (DynamicSoftLabelAssigner(), from_points),
}


@pytest.mark.parametrize('name', RULES)
def test_peak_is_far_below_the_matrix(name):
    assigner, more = RULES[name]
    priors, gts, regions = (random_objects(1, n, (800, 1344), seed) for seed, n in enumerate((P, G, 50)))
    given = dict(priors=priors[0], gt_bboxes=gts, gt_bboxes_ignore=regions) | more(G, P)
    assert peak_mib(lambda: assigner.assign(**given)) < 64


def test_the_measure_sees_a_matrix():
    assert peak_mib(lambda: torch.zeros(1000, 1000).add(1)) > 7.5
