"Many objects fit: the matrix of pairs is never whole. For 5,000 objects and 200,000 priors see `benchmarks/task_modules.py --aerial`."
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / 'benchmarks'))
from task_modules import peak_mib, random_objects

from learndet.task_modules.assigners.atss import ATSSAssigner
from learndet.task_modules.assigners.max_iou_assigner import MaxIoUAssigner

G, P = 2000, 40_000                                              # their matrix would have 305 MiB
RULES = {'max-IoU': (MaxIoUAssigner(.5, .4, ignore_iof_thr=.5), {}), 'ATSS': (ATSSAssigner(9, ignore_iof_thr=.5), dict(num_level_priors=[P]))}


@pytest.mark.parametrize('name', RULES)
def test_peak_is_far_below_the_matrix(name):
    assigner, more = RULES[name]
    priors, gts, regions = (random_objects(1, n, (800, 1344), seed) for seed, n in enumerate((P, G, 50)))
    assert peak_mib(lambda: assigner.assign(priors[0], gts, gt_bboxes_ignore=regions, **more)) < 64


def test_the_measure_sees_a_matrix():
    assert peak_mib(lambda: torch.zeros(1000, 1000).add(1)) > 7.5
