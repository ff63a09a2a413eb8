"Pictures of priors and assignments: what they show is what there is."
import matplotlib

matplotlib.use('agg')
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from learndet.structures.overlaps import bbox_overlaps
from learndet.task_modules.assigners.max_iou_assigner import MaxIoUAssigner
from learndet.task_modules.prior_generators.anchor_generator import AnchorGenerator
from learndet.visualization.assignment import compare_assignments, count_positives, list_orphans, show_assignment, show_counts
from learndet.visualization.priors import fade, middle_cell, prior_coverage, show_coverage, show_priors

IMG, SIZES = np.full((64, 96, 3), 100, np.uint8), [(8, 12), (4, 6)]
GENERATOR = AnchorGenerator([8, 16], [.5, 1., 2.], [4.])
GTS = torch.tensor([[4., 4, 40, 40], [50, 20, 90, 60], [1, 60, 5, 63]])


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close('all')


def test_priors():
    assert len(show_priors(GENERATOR, SIZES, IMG, gt_bboxes=GTS)) == 2
    axes = show_priors(GENERATOR, SIZES, torch.zeros(3, 64, 96, dtype=torch.uint8), cell=(1, 3, 5))
    assert len(axes) == 1 and '4 × 6 × 3 = 72' in axes[0].get_title()
    assert middle_cell((4, 6), (64, 96), (16, 16)) == (2, 3)
    assert fade(IMG, keep=1.).tolist() == IMG.tolist() and fade(IMG, keep=0.).min() == 255
    with pytest.raises(ValueError, match='of a map of 4 × 6'): show_priors(GENERATOR, SIZES, IMG, cell=(1, 4, 0))


def test_coverage():
    levels = GENERATOR.grid_priors(SIZES)
    best, level = prior_coverage(levels, GTS)
    dense = torch.stack([bbox_overlaps(GTS, p).amax(1) for p in levels])
    assert torch.equal(best, dense.amax(0)) and torch.equal(level, dense.argmax(0))
    left, right = show_coverage(levels, GTS)
    assert sum(p.get_width() for p in left.patches) == 3


def test_assignment():
    priors = torch.cat(GENERATOR.grid_priors(SIZES))
    trace = MaxIoUAssigner(.5, .4, min_pos_iou=.3).trace(priors, GTS)
    assert trace.orphans == [2]
    left, right = show_assignment(IMG, priors, GTS, trace, [288, 72])
    assert any('orphan' in t.get_text() for t in right.texts) and any(t.get_text() == '2!' for t in left.texts)
    assert f'{sum(trace.num_pos)} positive' in left.get_title()
    counts = count_positives(trace.gt_inds, 3, [288, 72])
    assert counts.sum(1).tolist() == trace.num_pos and counts.shape == (3, 2)
    show_assignment(IMG, priors, GTS, MaxIoUAssigner(.5, .4).assign(priors, GTS), max_boxes=0)
    show_assignment(IMG, priors, GTS[:0], MaxIoUAssigner(.5, .4).assign(priors, GTS[:0]))
    show_counts(counts, GTS)
    with pytest.raises(ValueError, match='one image has 360 codes'): show_assignment(IMG, priors, GTS, MaxIoUAssigner(.5, .4).assign(priors, GTS[None]))


def test_differences_and_orphans():
    priors = torch.cat(GENERATOR.grid_priors(SIZES))
    a, b = (MaxIoUAssigner(.5, .4, min_pos_iou=m).assign(priors, GTS).gt_inds for m in (.3, 0.))
    rows = compare_assignments(a, b, 3)
    assert [r['only_a'] for r in rows] == [0, 0, 0] and rows[2]['both'] == 0 and rows[2]['only_b'] > 0 and rows[0]['agree'] == 1
    found = list_orphans(MaxIoUAssigner(.5, .4, min_pos_iou=.3), priors, {'a': GTS, 'b': GTS[:2], 'c': GTS[:0]})
    assert [(r['image'], r['object'], r['width'], r['height']) for r in found] == [('a', 2, 4., 3.)]
