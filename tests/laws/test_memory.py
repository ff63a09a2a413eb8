"Many objects fit: no table of pairs is ever whole. For 5,000 objects and 200,000 priors see `benchmarks/task_modules.py --aerial`."
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / 'benchmarks'))
from task_modules import peak_mib, random_objects

from learndet.task_modules.assigners.approx_max_iou_assigner import ApproxMaxIoUAssigner
from learndet.task_modules.assigners.assign_result import leave_out
from learndet.task_modules.assigners.atss import ATSSAssigner
from learndet.task_modules.assigners.center_region_assigner import CenterRegionAssigner, RegionAssigner
from learndet.task_modules.assigners.dynamic_soft_label import DynamicSoftLabelAssigner
from learndet.task_modules.assigners.max_iou_assigner import MaxIoUAssigner
from learndet.task_modules.assigners.points_and_grids import GridAssigner, PointAssigner, UniformAssigner
from learndet.task_modules.assigners.sim_ota import SimOTAAssigner
from learndet.task_modules.assigners.task_aligned import TaskAlignedAssigner

G, P = 2000, 40_000                                              # one table would have 305 MiB
PRIORS, = random_objects(1, P, (800, 1344), seed=0)


def layout(G, P): return dict(featmap_sizes=[(150, 200), (100, 100)], num_level_anchors=[P - 10_000, 10_000], anchor_scale=4, anchor_strides=[8, 16])

def predicted(G, P): return dict(gt_labels=torch.arange(G)[None] % 3, bbox_preds=PRIORS[None] + 3, cls_scores=torch.rand(1, P, 3))


def from_points(G, P): return predicted(G, P) | dict(priors=torch.cat([PRIORS[:, :2] + 8, torch.full((P, 2), 16.)], dim=1))


RULES = {                                                        # name: (assigner, numbers of objects and priors -> what it takes on top)
    'max-IoU': (MaxIoUAssigner(.5, .4, ignore_iof_thr=.5), lambda G, P: {}),
    'ATSS': (ATSSAssigner(9, ignore_iof_thr=.5), lambda G, P: dict(num_level_priors=[P])),
    'approximate max-IoU': (ApproxMaxIoUAssigner(.5, .4, ignore_iof_thr=.5), lambda G, P: dict(approxs=torch.stack([PRIORS, PRIORS + 3], dim=1))),
    'grid': (GridAssigner(.5, .4), lambda G, P: dict(responsible_flags=torch.arange(P)[None] % 7 == 0)),
    'points': (PointAssigner(), lambda G, P: dict(priors=torch.cat([PRIORS[:, :2], 8. * 2 ** (torch.arange(P)[:, None] % 3)], dim=1))),
    'uniform': (UniformAssigner(.15, .7), lambda G, P: dict(bbox_preds=PRIORS[None] + 3)),
    'center region': (CenterRegionAssigner(.2, .5), lambda G, P: {}),
    'region': (RegionAssigner(), layout),
    'SimOTA': (SimOTAAssigner(), from_points),
    'task-aligned': (TaskAlignedAssigner(13), predicted),
    'soft labels': (DynamicSoftLabelAssigner(), from_points),
}


@pytest.mark.parametrize('name', RULES)
def test_peak_is_far_below_the_table(name):
    "Beyond the answer, which is a byte for each pair where it says whose shadow a prior lies in, and small otherwise."
    (assigner, more), answers = RULES[name], []
    gts, regions = (random_objects(1, n, (800, 1344), seed) for seed, n in ((1, G), (2, 50)))
    given = dict(priors=PRIORS, gt_bboxes=gts, gt_bboxes_ignore=regions) | more(G, P)
    peak = peak_mib(lambda: answers.append(assigner.assign(**given)))
    assert peak - sum(t.nbytes for t in vars(answers[0]).values() if torch.is_tensor(t)) / 2 ** 20 < 64


def test_many_ignored_regions_fit_too():
    centers, regions = PRIORS[:, :2], random_objects(1, G, (800, 1344), seed=2)
    assert peak_mib(lambda: leave_out(torch.zeros(1, P, dtype=torch.long), centers, regions)) < 64


def test_weights_for_classes_fit_too():
    result = CenterRegionAssigner(.2, .5).assign(PRIORS, random_objects(1, G, (800, 1344), seed=1))
    assert peak_mib(lambda: result.class_weights(20)) < 64


def test_the_measure_sees_a_matrix():
    assert peak_mib(lambda: torch.zeros(1000, 1000).add(1)) > 7.5
