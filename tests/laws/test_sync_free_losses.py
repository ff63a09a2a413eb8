"No loss waits for the device: neither its value, its gradient, nor the state it keeps."
import pytest
import torch

from learndet.task_modules.losses.cross_entropy import CrossEntropyLoss
from learndet.task_modules.losses.gaussian_focal import GaussianFocalLoss
from learndet.task_modules.losses.gradient_harmonizing import GHMR
from learndet.task_modules.losses.iou_losses import BoundedIoULoss, CIoULoss, DIoULoss, GIoULoss, IoULoss
from learndet.task_modules.losses.l1 import L1Loss, MSELoss, SmoothL1Loss
from learndet.task_modules.losses.more_box_losses import BalancedL1Loss, EIoULoss, SIoULoss
from learndet.task_modules.losses.reduction import Accuracy
from learndet.task_modules.losses.long_tail import SeesawLoss
from loss_rows import ROWS, call
from test_sync_free import NoSync

BOX_LOSSES = [IoULoss(), IoULoss(mode='square'), GIoULoss(), DIoULoss(), CIoULoss(), BoundedIoULoss(), EIoULoss(), SIoULoss(),
              SIoULoss(neg_gamma=True), L1Loss(), SmoothL1Loss(), MSELoss(), BalancedL1Loss(), GHMR(momentum=.5)]


@pytest.mark.parametrize('kind', ROWS)
@pytest.mark.parametrize('reduction', ['mean', 'none', 'sum'])
def test_losses_over_rows(kind, reduction):
    make, inputs, by_row = ROWS[kind]
    g = torch.Generator().manual_seed(0)
    pred, target = inputs(g, 6)
    weight, loss = torch.rand(6 if by_row else pred.shape, generator=g), make()
    with NoSync():
        pred.requires_grad_()
        for w in (None, weight):
            call(loss, pred, target, w, reduction_override=reduction).sum().backward()
            if reduction == 'mean': call(loss, pred, target, w, avg_factor=weight.sum()).backward()


@pytest.mark.parametrize('loss', BOX_LOSSES, ids=lambda loss: type(loss).__name__)
def test_losses_of_boxes(loss):
    pred, target = torch.rand(5, 4).cumsum(1), torch.rand(5, 4).cumsum(1)
    weight = (torch.rand(5, 1) < .5).float().expand(5, 4)
    with NoSync():
        pred.requires_grad_()
        loss(pred, target, weight, avg_factor=weight.sum()).backward()
        loss(pred, target, 0 * weight).backward()                       # MMDetection asks "is every weight 0?" here


def test_masks_named_places_and_accuracy():
    masks, truth, label = torch.randn(3, 4, 6, 6), torch.rand(3, 6, 6).round(), torch.tensor([0, 1, 3])
    maps, target, places = torch.rand(8, 4), torch.rand(8, 4), torch.tensor([1, 5, 0])
    seesaw, scores = SeesawLoss(num_classes=4), torch.randn(3, 6)
    with NoSync():
        masks.requires_grad_(), maps.requires_grad_()
        CrossEntropyLoss(use_mask=True)(masks, truth, label=label, weight=torch.ones(3)).backward()
        CrossEntropyLoss(class_weight=[1.] * 5, ignore_index=3, avg_non_ignore=True)(torch.randn(3, 5), label)
        CrossEntropyLoss(use_sigmoid=True, class_weight=[1.] * 4, ignore_index=3, avg_non_ignore=True)(torch.randn(3, 4), label)
        GaussianFocalLoss()(maps, target, places, label, pos_valid=torch.tensor([True, True, False])).backward()
        Accuracy((1, 2), .5)(torch.rand(3, 4), label, torch.tensor([True, False, True]))
        seesaw.get_accuracy(scores, label), seesaw.get_activation(scores)
