"No assigner but the Hungarian ones waits for the device, and torch.compile takes each as one graph."
import pytest
import torch
from test_sync_free import NoSync

from learndet.task_modules.assigners.atss import ATSSAssigner
from learndet.task_modules.assigners.dynamic_soft_label import DynamicSoftLabelAssigner
from learndet.task_modules.assigners.match_costs import (BBoxL1Cost, BinaryFocalLossCost, ClassificationCost, CrossEntropyLossCost, DiceCost,
                                                         FocalLossCost, IoUCost)
from learndet.task_modules.assigners.sim_ota import SimOTAAssigner
from learndet.task_modules.assigners.task_aligned import TaskAlignedAssigner

POINTS = torch.tensor([[(j + .5) * s, (i + .5) * s, s, s] for n, s in ((6, 16), (3, 32)) for i in range(n) for j in range(n)], dtype=torch.float32)
ANCHORS = torch.cat([POINTS[:, :2] - POINTS[:, 2:], POINTS[:, :2] + POINTS[:, 2:]], dim=1)
RULES = [(ATSSAssigner(5, ignore_iof_thr=.5), ANCHORS), (ATSSAssigner(5, alpha=.8), ANCHORS), (SimOTAAssigner(), POINTS),
         (TaskAlignedAssigner(6), ANCHORS), (DynamicSoftLabelAssigner(), POINTS)]
for rule, priors in ((SimOTAAssigner(), POINTS), (TaskAlignedAssigner(6), ANCHORS), (DynamicSoftLabelAssigner(), POINTS)):
    rule.pairs_at_once = 200                                    # and in blocks of two objects
    RULES.append((rule, priors))


def batch(assigner, B=2, G=4):
    torch.manual_seed(0)
    boxes = lambda *shape: torch.cat([xy := torch.rand(*shape, 2) * 70, xy + 6 + torch.rand(*shape, 2) * 30], dim=-1)
    more = dict(bbox_preds=boxes(B, 45), cls_scores=torch.rand(B, 45, 3))
    if isinstance(assigner, ATSSAssigner): more['num_level_priors'] = [36, 9]
    if isinstance(assigner, DynamicSoftLabelAssigner): more['gt_masks'] = torch.rand(B, G, 12, 12) < .5
    contract = (boxes(B, G), torch.randint(3, (B, G)), torch.rand(B, G) < .7, boxes(B, 2), torch.rand(B, 2) < .5, torch.rand(B, 45) < .9)
    return contract, more


@pytest.mark.parametrize('assigner, priors', RULES, ids=str)
@pytest.mark.parametrize('G', [0, 4])
def test_assign(assigner, priors, G):
    contract, more = batch(assigner, G=G)
    with NoSync(): assigner.assign(priors, *contract, **more)


def test_costs():
    torch.manual_seed(0)
    boxes = torch.rand(2, 9, 4)
    known = dict(cls_scores=torch.randn(2, 9, 5), gt_labels=torch.randint(5, (2, 4)), bbox_preds=boxes, gt_bboxes=boxes[:, :4], img_shape=(9, 9),
                 masks=torch.randn(2, 9, 30), gt_masks=torch.rand(2, 4, 30) < .5, positive_maps=torch.ones(2, 4, 5),
                 text_token_mask=torch.ones(2, 5, dtype=torch.bool))
    with NoSync():
        for cost in (BBoxL1Cost(), IoUCost(), ClassificationCost(), FocalLossCost(), FocalLossCost(binary_input=True), CrossEntropyLossCost(),
                     DiceCost(), BinaryFocalLossCost()): assert cost(**known).shape == (2, 9, 4)


@pytest.mark.parametrize('assigner, priors', RULES, ids=str)
def test_one_graph(assigner, priors):
    contract, more = batch(assigner)
    compiled = torch.compile(assigner.assign, fullgraph=True, dynamic=False, backend='aot_eager')
    ours, theirs = assigner.assign(priors, *contract, **more), compiled(priors, *contract, **more)
    assert torch.equal(ours.gt_inds, theirs.gt_inds) and torch.equal(ours.labels, theirs.labels)
