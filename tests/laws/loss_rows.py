"Losses over rows, each with a maker of random inputs: what the laws and the check for waiting go through."
import torch

from learndet.task_modules.losses.cross_entropy import CrossEntropyLoss
from learndet.task_modules.losses.focal import FocalLoss
from learndet.task_modules.losses.gaussian_focal import GaussianFocalLoss
from learndet.task_modules.losses.gradient_harmonizing import GHMC, GHMR
from learndet.task_modules.losses.masks_and_distillation import ArcLoss, DiceLoss, KnowledgeDistillationKLDivLoss
from learndet.task_modules.losses.quality_losses import DistributionFocalLoss, QualityFocalLoss, VarifocalLoss
from learndet.task_modules.losses.long_tail import EQLV2Loss, SeesawLoss

K = 4
x = lambda g, n, C=K, size=3.: torch.randn(n, C, generator=g) * size
label = lambda g, n, high=K + 1: torch.randint(high, (n,), generator=g)
unit = lambda g, *shape: torch.rand(*shape, generator=g)

# name: (make a loss, make (pred, target) of n rows, whether the weight is one number a row)
ROWS = {
    'cross entropy': (CrossEntropyLoss, lambda g, n: (x(g, n), label(g, n, K)), True),
    'sigmoid cross entropy': (lambda: CrossEntropyLoss(use_sigmoid=True), lambda g, n: (x(g, n), label(g, n)), True),
    'focal': (FocalLoss, lambda g, n: (x(g, n), label(g, n)), True),
    'quality focal': (QualityFocalLoss, lambda g, n: (x(g, n), (label(g, n), unit(g, n))), True),
    'quality focal, dense': (QualityFocalLoss, lambda g, n: (x(g, n), unit(g, n, K)), True),
    'quality focal, beta .5': (lambda: QualityFocalLoss(beta=.5), lambda g, n: (x(g, n), (label(g, n), unit(g, n))), True),
    'distribution focal': (DistributionFocalLoss, lambda g, n: (x(g, n, 9), unit(g, n) * 8), True),
    'varifocal': (VarifocalLoss, lambda g, n: (x(g, n), unit(g, n, K) * (unit(g, n, K) < .4)), True),
    'varifocal, gamma .5': (lambda: VarifocalLoss(gamma=.5), lambda g, n: (x(g, n), unit(g, n, K) * (unit(g, n, K) < .4)), True),
    'GHM-C': (GHMC, lambda g, n: (x(g, n), label(g, n)), True),
    'GHM-C, momentum': (lambda: GHMC(momentum=.5), lambda g, n: (x(g, n), label(g, n)), True),
    'GHM-R': (GHMR, lambda g, n: (x(g, n, 4, .1), x(g, n, 4, .1)), False),
    'seesaw': (lambda: SeesawLoss(num_classes=K, return_dict=False), lambda g, n: (x(g, n, K + 2), label(g, n)), True),
    'seesaw, no compensation': (lambda: SeesawLoss(num_classes=K, return_dict=False, q=0.), lambda g, n: (x(g, n, K + 2), label(g, n)), True),
    'equalized': (lambda: EQLV2Loss(num_classes=K - 1), lambda g, n: (x(g, n), label(g, n, K)), True),
    'dice': (DiceLoss, lambda g, n: (x(g, n, 16), unit(g, n, 16).round()), True),
    'dice, naive': (lambda: DiceLoss(naive_dice=True), lambda g, n: (x(g, n, 16), unit(g, n, 16).round()), True),
    'distillation': (KnowledgeDistillationKLDivLoss, lambda g, n: (x(g, n), x(g, n)), True),
    'arc': (ArcLoss, lambda g, n: (x(g, n).tanh(), label(g, n)), True),
    'heatmap': (GaussianFocalLoss, lambda g, n: (x(g, n).sigmoid(), (unit(g, n, K) * 1.2).clamp(max=1)), False)}


def call(loss, pred, target, weight=None, **kwargs):
    "Some name their weight otherwise, and the heatmap's third argument is another one."
    if weight is None: return loss(pred, target, **kwargs)
    return loss(pred, target, weight=weight, **kwargs) if isinstance(loss, GaussianFocalLoss) else loss(pred, target, weight, **kwargs)


def first(target, n): return tuple(t[:n] for t in target) if isinstance(target, tuple) else target[:n]


def stacked(a, b): return tuple(map(torch.cat, zip(a, b))) if isinstance(a, tuple) else torch.cat([a, b])
