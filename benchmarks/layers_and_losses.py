"""Folding of frozen batch norms, and losses without one-hot matrices and loops: in one process, interleaved, one thread.

    python benchmarks/layers_and_losses.py [--depth 50] [--size 480 640] [--priors 50400] [--repeat 5] [--compile]

Prints process CPU time (median) and ratios to the first line of each table, and the peak of live tensor bytes. A ratio
above 1 means that many times less time. Absolute times mean little on a shared machine; ratios of one run can be compared.
"""
import argparse

import torch
import torch.nn.functional as F
from torchvision.models import resnet
from torchvision.ops import FrozenBatchNorm2d, complete_box_iou_loss, distance_box_iou_loss, generalized_box_iou_loss
from torchvision.ops import sigmoid_focal_loss as torchvision_focal_loss

from learndet.models.backbones.resnet import ResNet
from learndet.models.layers.conv_module import bake_norms, norm_folding
from learndet.models.weights import load_matching
from learndet.task_modules.losses.cross_entropy import CrossEntropyLoss
from learndet.task_modules.losses.focal import FocalLoss
from learndet.task_modules.losses.gaussian_focal import GaussianFocalLoss
from learndet.task_modules.losses.gradient_harmonizing import GHMC
from learndet.task_modules.losses.iou_losses import CIoULoss, DIoULoss, GIoULoss
from learndet.task_modules.losses.l1 import SmoothL1Loss
from learndet.task_modules.losses.long_tail import EQLV2Loss, SeesawLoss
from learndet.task_modules.losses.masks_and_distillation import DiceLoss
from learndet.task_modules.losses.quality_losses import DistributionFocalLoss, QualityFocalLoss, VarifocalLoss
from task_modules import report


def backbones(depth, size, repeat, layout):
    "Training step and forward of a backbone with frozen statistics: torchvision's, ours without folding, ours."
    torch.manual_seed(0)
    theirs = getattr(resnet, f'resnet{depth}')(norm_layer=FrozenBatchNorm2d).to(memory_format=layout)
    ours = ResNet(depth).to(memory_format=layout)
    load_matching(ours, theirs.state_dict())
    x = torch.randn(1, 3, *size).contiguous(memory_format=layout)

    def stages(x):
        x, outs = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(x)))), []
        for i in (1, 2, 3, 4): x = getattr(theirs, f'layer{i}')(x); outs.append(x)
        return outs

    def step(model, fold=True):
        with norm_folding(fold): sum(o.mean() for o in model(x)).backward()

    @torch.no_grad()
    def look(model, fold=True):
        with norm_folding(fold): return model(x)

    name = str(layout).split('.')[-1]
    report(f'ResNet-{depth}, 1 x {size[0]} x {size[1]}, {name}: forward and backward',
           {'torchvision, FrozenBatchNorm2d': lambda: step(stages), 'ours, norms as layers': lambda: step(ours, False),
            'ours, folded at each call': lambda: step(ours)}, repeat)
    baked = ResNet(depth).to(memory_format=layout).eval()
    baked.load_state_dict(ours.state_dict())
    bake_norms(baked, x[..., :64, :64])
    report(f'the same, forward only',
           {'torchvision, FrozenBatchNorm2d': lambda: look(stages), 'ours, norms as layers': lambda: look(ours, False),
            'ours, folded at each call': lambda: look(ours), 'ours, baked': lambda: look(baked)}, repeat)


def focal(N, K, repeat, compiled):
    "Focal loss of N priors, K classes, 100 positives, a tenth of them ignored: forward and backward."
    torch.manual_seed(0)
    x, label, weight = (torch.randn(N, K) - 4).requires_grad_(), torch.full((N,), K), (torch.rand(N) > .1).float()
    label[torch.randperm(N)[:100]] = torch.randint(0, K, (100,))

    def theirs():
        answers = torch.zeros_like(x)
        positive = label < K
        answers[positive, label[positive]] = 1.
        valid = weight > 0
        (torchvision_focal_loss(x[valid], answers[valid], reduction='sum') / 100).backward()

    def one_hot():
        answers = F.one_hot(label, K + 1)[:, :K].float()
        ((torchvision_focal_loss(x, answers) * weight[:, None]).sum() / 100).backward()

    loss = FocalLoss()
    ours = lambda: loss(x, label, weight, avg_factor=100.).backward()
    table = {'torchvision, boolean rows': theirs, 'torchvision, one-hot and weight': one_hot, 'ours': ours}
    if compiled:
        fast = torch.compile(lambda x, label, weight: loss(x, label, weight, avg_factor=100.), fullgraph=True, dynamic=False)
        table['ours, compiled'] = lambda: fast(x, label, weight).backward()
    report(f'focal loss, {N} priors x {K} classes', table, repeat)


def dense_problem(N, K):
    "Logits of N priors around 1 %, and labels with 100 positives."
    torch.manual_seed(0)
    x, label = (torch.randn(N, K) - 4).requires_grad_(), torch.full((N,), K)
    label[torch.randperm(N)[:100]] = torch.randint(0, K, (100,))
    return x, label


def quality(N, K, repeat):
    "Quality focal loss: positives picked by a mask and written in place, as it is usually done, and ours."
    x, label = dense_problem(N, K)
    score = torch.rand(N)

    def picked():
        p, positive = x.sigmoid(), (label < K).nonzero().squeeze(1)
        loss = F.binary_cross_entropy_with_logits(x, torch.zeros_like(x), reduction='none') * p ** 2
        at = positive, label[positive]
        loss[at] = F.binary_cross_entropy_with_logits(x[at], score[positive], reduction='none') * (score[positive] - p[at]).abs() ** 2
        (loss.sum() / 100).backward()

    loss = QualityFocalLoss()
    report(f'quality focal loss, {N} priors x {K} classes',
           {'picked by a mask': picked, 'ours': lambda: loss(x, (label, score), avg_factor=100.).backward()}, repeat)


def harmonized(N, K, repeat, bins=10):
    "GHM-C: a loop over bins that asks whether each is empty, and ours."
    x, label = dense_problem(N, K)

    def loop():
        answers = F.one_hot(label, K + 1)[:, :K].float()
        g, weights, used = (x.detach().sigmoid() - answers).abs(), torch.zeros_like(x), 0
        for i in range(bins):
            inside = (g >= i / bins) & (g < (i + 1) / bins + (i == bins - 1))
            if (count := inside.sum().item()) > 0: weights[inside], used = x.numel() / count, used + 1
        loss = F.binary_cross_entropy_with_logits(x, answers, reduction='none')
        ((loss * weights / used).sum() / x.numel()).backward()

    loss = GHMC(bins)
    report(f'gradient harmonizing, {N} priors x {K} classes',
           {'a loop over bins': loop, 'ours': lambda: loss(x, label, torch.ones(N)).backward()}, repeat)


def boxes(N, repeat):
    "Losses made of overlap, N pairs of boxes, forward and backward: torchvision's, row by row in a loop over images, and ours."
    torch.manual_seed(0)
    target = torch.cat([xy := torch.rand(N, 2) * 400, xy + 8 + torch.rand(N, 2) * 100], dim=1)
    pred, weight = (target + torch.randn(N, 4) * 4).requires_grad_(), (torch.rand(N) > .5).float()
    for name, theirs, loss in (('GIoU', generalized_box_iou_loss, GIoULoss()), ('DIoU', distance_box_iou_loss, DIoULoss()),
                               ('CIoU', complete_box_iou_loss, CIoULoss())):
        def picked():
            rows = weight > 0
            (theirs(pred[rows], target[rows], reduction='sum') / 100).backward()
        report(f'{name} loss, {N} pairs, half of them padding', {
            'torchvision, boolean rows': picked, 'torchvision, all and weight': lambda: ((theirs(pred, target) * weight).sum() / 100).backward(),
            'loop over 16 images': lambda: (sum((theirs(p, t) * w).sum() for p, t, w in zip(*(x.chunk(16) for x in (pred, target, weight)))) / 100).backward(),
            'ours': lambda: loss(pred, target, weight[:, None].expand(-1, 4), avg_factor=100.).backward()}, repeat)


def proposals(N, K, repeat):
    "Cross entropy and smooth L1 of N proposals: with PyTorch's own functions and indices, and ours with weights."
    torch.manual_seed(0)
    x, label, weight = torch.randn(N, K + 1).requires_grad_(), torch.randint(0, K + 1, (N,)), (torch.rand(N) > .2).float()
    deltas, targets = torch.randn(N, 4).requires_grad_(), torch.randn(N, 4)
    loss_cls, loss_bbox = CrossEntropyLoss(), SmoothL1Loss(beta=1 / 9)

    def picked():
        rows, positive = weight > 0, ((weight > 0) & (label < K)).nonzero().squeeze(1)
        (F.cross_entropy(x[rows], label[rows]) + F.smooth_l1_loss(deltas[positive], targets[positive], beta=1 / 9, reduction='sum') / rows.sum()).backward()

    def ours():
        count, positive = weight.sum(), (weight * (label < K))[:, None].expand(-1, 4)
        (loss_cls(x, label, weight, avg_factor=count) + loss_bbox(deltas, targets, positive, avg_factor=count)).backward()

    report(f'cross entropy and smooth L1, {N} proposals x {K} classes', {'torch, with indices': picked, 'ours': ours}, repeat)


def long_tail(N, K, repeat):
    "Seesaw: weights of all pairs of classes and one-hot labels, and ours, for N proposals."
    torch.manual_seed(0)
    x, label = torch.randn(N, K + 2).requires_grad_(), torch.randint(0, K, (N,))
    counts = torch.rand(K) * 1000

    def matrices():
        logits, own = x[:, :-2], F.one_hot(label, K)
        M = (counts.clamp(min=1) / counts.clamp(min=1)[:, None]).clamp(max=1) ** .8
        p = logits.detach().softmax(1)
        C = (p / p.gather(1, label[:, None]).clamp(min=.01)).clamp(min=1) ** 2
        F.cross_entropy(logits + (M[label] * C).log() * (1 - own), label).backward()

    loss = SeesawLoss(num_classes=K).eval()
    loss.cum_samples[:-1] = counts
    report(f'seesaw loss, {N} proposals x {K} classes',
           {'a matrix of classes': matrices, 'ours': lambda: loss(x, label)['loss_cls_classes'].backward()}, repeat)


def compare(title, functions, repeat):
    "Functions that give the same loss, each forward and backward; torchvision has no such loss."
    values = [f() for f in functions.values()]
    for value in values[1:]: torch.testing.assert_close(value, values[0], rtol=1e-4, atol=1e-5)
    report(title, {name: lambda f=f: f().backward() for name, f in functions.items()}, repeat)


def varifocal(N, K, repeat):
    "Varifocal loss: with masks as factors, as it is usually written, and ours."
    x, label = dense_problem(N, K)
    quality = F.one_hot(label, K + 1)[:, :K] * torch.rand(N, 1)

    def factors():
        weight = quality * (quality > 0).float() + .75 * (x.sigmoid() - quality).abs() ** 2 * (quality <= 0).float()
        return (F.binary_cross_entropy_with_logits(x, quality, reduction='none') * weight).sum() / 100

    loss = VarifocalLoss()
    compare(f'varifocal loss, {N} priors x {K} classes', {'masks as factors': factors, 'ours': lambda: loss(x, quality, avg_factor=100.)}, repeat)


def distributions(N, n, repeat):
    "Distribution focal loss of N sides, half of them padding: rows picked by a mask and two cross entropies, and ours."
    torch.manual_seed(0)
    x, distance, weight = torch.randn(N, n + 1).requires_grad_(), torch.rand(N) * n * .99, (torch.rand(N) > .5).float()

    def two():
        rows = weight > 0
        logits, side, left = x[rows], distance[rows], distance[rows].long()
        near = F.cross_entropy(logits, left, reduction='none') * (left + 1 - side) + F.cross_entropy(logits, left + 1, reduction='none') * (side - left)
        return near.sum() / 100

    loss = DistributionFocalLoss()
    compare(f'distribution focal loss, {N} sides x {n + 1} distances, half of them padding',
            {'two cross entropies, boolean rows': two, 'ours': lambda: loss(x, distance, weight, avg_factor=100.)}, repeat)


def dice(N, size, repeat):
    "Dice loss of N masks, half of them padding: one at a time, and ours."
    torch.manual_seed(0)
    x, target, weight = torch.randn(N, size, size).requires_grad_(), (torch.rand(N, size, size) > .6).float(), (torch.rand(N) > .5).float()

    def loop():
        losses = []
        for logits, mask, counts in zip(x, target, weight.tolist()):
            if counts:
                p = logits.sigmoid()
                losses.append(1 - 2 * (p * mask).sum() / (p.square().sum() + mask.square().sum() + 2e-3))
        return torch.stack(losses).sum() / 10

    loss = DiceLoss()
    compare(f'dice loss, {N} masks of {size} x {size}, half of them padding', {'a mask at a time': loop, 'ours': lambda: loss(x, target, weight, avg_factor=10.)}, repeat)


def heatmaps(B, K, size, repeat):
    "Gaussian focal loss: places picked by masks, as CornerNet wrote it, and ours."
    torch.manual_seed(0)
    x, target = (torch.randn(B, K, size, size) - 3).requires_grad_(), torch.rand(B, K, size, size) ** 16 * .9
    target.view(-1)[torch.randperm(target.numel())[:32 * B]] = 1.

    def picked():
        p, positive, negative = x.sigmoid(), target == 1, target < 1
        yes, no = p[positive], p[negative]
        return -((yes.log() * (1 - yes) ** 2).sum() + ((1 - no).log() * no ** 2 * (1 - target[negative]) ** 4).sum()) / 100

    loss = GaussianFocalLoss()
    compare(f'Gaussian focal loss, {B} x {K} maps of {size} x {size}', {'places picked by masks': picked, 'ours': lambda: loss(x.sigmoid(), target, avg_factor=100.)}, repeat)


def equalized(N, K, repeat):
    "EQL v2: one-hot answers and weights of all pairs, and ours; both remember the gradients of every class."
    torch.manual_seed(0)
    x, label = torch.randn(N, K + 1).requires_grad_(), torch.randint(0, K + 1, (N,))
    pushes, ratio = torch.zeros(2, K), torch.full((K,), 100.)

    def matrices():
        answers = F.one_hot(label, K + 1).float()
        down = torch.cat([torch.sigmoid(12 * (ratio - .8)), torch.ones(1)])
        weight = (1 + 4 * (1 - down)) * answers + down * (1 - answers)
        length = (x.detach().sigmoid() - answers).abs() * weight
        pushes.add_(torch.stack([(length * answers).sum(0), (length * (1 - answers)).sum(0)])[:, :-1])
        ratio.copy_(pushes[0] / (pushes[1] + 1e-10))
        return (F.binary_cross_entropy_with_logits(x, answers, reduction='none') * weight).sum() / N

    loss = EQLV2Loss(num_classes=K)
    compare(f'EQL v2, {N} proposals x {K} classes', {'one-hot matrices': matrices, 'ours': lambda: loss(x, label)}, repeat)


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--depth', type=int, default=50)
    parser.add_argument('--size', type=int, nargs=2, default=(480, 640))
    parser.add_argument('--priors', type=int, default=50_400)
    parser.add_argument('--repeat', type=int, default=5)
    parser.add_argument('--compile', action='store_true')
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(f'torch {torch.__version__}, one thread, on a shared machine')
    for layout in (torch.contiguous_format, torch.channels_last): backbones(args.depth, tuple(args.size), args.repeat, layout)
    focal(args.priors, 80, args.repeat, args.compile)
    quality(args.priors, 80, args.repeat)
    varifocal(args.priors, 80, args.repeat)
    distributions(8192, 16, args.repeat)
    heatmaps(2, 80, 128, args.repeat)
    harmonized(args.priors, 80, args.repeat)
    boxes(args.priors, args.repeat)
    proposals(1024, 80, args.repeat)
    dice(100, 112, args.repeat)
    long_tail(1024, 1203, args.repeat)
    equalized(1024, 1203, args.repeat)
