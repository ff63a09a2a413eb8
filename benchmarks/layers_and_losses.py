"""Folding of frozen batch norms, and focal loss without a one-hot matrix: in one process, interleaved, one thread.

    python benchmarks/layers_and_losses.py [--depth 50] [--size 480 640] [--priors 50400] [--repeat 5] [--compile]

Prints process CPU time (median) and ratios to the first line of each table, and the peak of live tensor bytes. A ratio
above 1 means that many times less time. Absolute times mean little on a shared machine; ratios of one run can be compared.
"""
import argparse

import torch
import torch.nn.functional as F
from torchvision.models import resnet
from torchvision.ops import FrozenBatchNorm2d
from torchvision.ops import sigmoid_focal_loss as torchvision_focal_loss

from learndet.models.backbones.resnet import ResNet
from learndet.models.layers.conv_module import bake_norms, norm_folding
from learndet.models.weights import load_matching
from learndet.task_modules.losses.focal import FocalLoss
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


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--depth', type=int, default=50)
    parser.add_argument('--size', type=int, nargs=2, default=(480, 640))
    parser.add_argument('--priors', type=int, default=50_400)
    parser.add_argument('--repeat', type=int, default=5)
    parser.add_argument('--compile', action='store_true')
    args = parser.parse_args()
    torch.set_num_threads(1)
    for layout in (torch.contiguous_format, torch.channels_last): backbones(args.depth, tuple(args.size), args.repeat, layout)
    focal(args.priors, 80, args.repeat, args.compile)
