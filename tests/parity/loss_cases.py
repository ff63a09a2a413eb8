"""Random inputs for every loss, the same for learndet and for MMDetection: one seed, one case.

A case is the class's name, its options, and one or more calls (positional arguments, keyword arguments); the first argument
is the prediction, whose gradient is compared, too.
"""
import torch


def pick(seed, *choices): return choices[seed % len(choices)]


def reducing(g, seed, weight=None, sums=True, name='weight'):
    "Keyword arguments that go through all reductions, with and without a weight and a denominator."
    reduction = pick(seed, 'mean', 'none', 'sum', 'mean') if sums else pick(seed, 'mean', 'none')
    kwargs = dict(reduction_override=reduction)
    if weight is not None and seed % 5: kwargs[name] = weight
    if reduction == 'mean' and seed % 8 >= 4: kwargs['avg_factor'] = 1. + 5 * torch.rand((), generator=g).item()
    return kwargs


def weights(g, *shape):
    "Between 0 and 2, a third of them 0, the first one not."
    w = torch.rand(*shape, generator=g) * 2 * (torch.rand(*shape, generator=g) > .33)
    w.view(-1)[0] = 1.
    return w


def boxes(g, n):
    "Pairs that overlap much, a little and not at all."
    def make():
        xy = torch.rand(n, 2, generator=g) * 100
        return torch.cat([xy, xy + 2 + torch.rand(n, 2, generator=g) * 80], dim=1)
    pred, target = make(), make()
    near = torch.rand(n, 1, generator=g) < .5
    return torch.where(near, target + torch.rand(n, 4, generator=g) * 2 - 1, pred), target


def logits(g, *shape): return torch.randn(*shape, generator=g) * 3


def sizes(g, seed): return int(torch.randint(1, 12, (), generator=g)), int(torch.randint(2, 7, (), generator=g))


def softmax_ce(g, seed):
    N, C = sizes(g, seed)
    label = torch.randint(C, (N,), generator=g)
    options = dict(class_weight=pick(seed, None, [.5 + i / C for i in range(C)]), loss_weight=pick(seed, 1., .5))
    if seed % 3 == 1:
        label[torch.rand(N, generator=g) < .3] = 255
        options |= dict(ignore_index=255, avg_non_ignore=bool(seed % 2))
    return 'CrossEntropyLoss', options, [((logits(g, N, C), label), reducing(g, seed, weights(g, N)))]


def sigmoid_ce(g, seed):
    N, K = sizes(g, seed)
    options = dict(use_sigmoid=True, class_weight=pick(seed // 2, None, [.5 + i / K for i in range(K)]), loss_weight=pick(seed, 1., .5))
    if seed % 3 == 1: options |= dict(ignore_index=255, avg_non_ignore=bool(seed % 2))
    if seed % 4 == 3:                                                              # a matrix of answers
        target = (torch.rand(N, K, generator=g) < .3).long()
        return 'CrossEntropyLoss', options, [((logits(g, N, K), target), reducing(g, seed, weights(g, N, K)))]
    label = torch.randint(K + 1, (N,), generator=g)
    if seed % 3 == 1: label[torch.rand(N, generator=g) < .3] = 255
    return 'CrossEntropyLoss', options, [((logits(g, N, K), label), reducing(g, seed, weights(g, N)))]


def mask_ce(g, seed):
    N, K = sizes(g, seed)
    target = (torch.rand(N, 6, 6, generator=g) < .5).float()
    return 'CrossEntropyLoss', dict(use_mask=True, loss_weight=pick(seed, 1., 2.)), [((logits(g, N, K, 6, 6), target, torch.randint(K, (N,), generator=g)), {})]


def focal(g, seed):
    N, K = sizes(g, seed)
    options = dict(gamma=pick(seed, 2., 1.5, 0., 1.), alpha=pick(seed, .25, .5), loss_weight=pick(seed, 1., .5))
    label = torch.randint(K + 1, (N,), generator=g)
    if seed % 7 == 6: label = torch.nn.functional.one_hot(label, K + 1)[:, :K]
    pred = logits(g, N, K)
    if seed % 6 == 5: options['activated'], pred = True, torch.sigmoid(pred / 2)
    return 'FocalLoss', options, [((pred, label), reducing(g, seed, pick(seed, weights(g, N), weights(g, N, K))))]


def offsets(name, **more):
    def make(g, seed):
        N = sizes(g, seed)[0]
        options = {key: pick(seed, *values) for key, values in more.items()} | dict(loss_weight=pick(seed, 1., 2.))
        args = torch.randn(N, 4, generator=g), torch.randn(N, 4, generator=g)
        return name, options, [(args, reducing(g, seed, weights(g, N, 4)))]
    return make


def overlap(name, **more):
    def make(g, seed):
        N = sizes(g, seed)[0]
        options = {key: pick(seed, *values) for key, values in more.items()} | dict(loss_weight=pick(seed, 1., 2.))
        w = weights(g, N)
        four = name == 'BoundedIoULoss' or seed % 2
        return name, options, [(boxes(g, N), reducing(g, seed, w[:, None].repeat(1, 4) if four else w))]
    return make


def quality_focal(g, seed):
    N, K = sizes(g, seed)
    options, pred = dict(beta=pick(seed, 2., 1., 1.5), loss_weight=pick(seed, 1., .5)), logits(g, N, K)
    label, score = torch.randint(K + 1, (N,), generator=g), torch.rand(N, generator=g)
    target = (label, score)
    if seed % 4 == 1: target = torch.nn.functional.one_hot(label, K + 1)[:, :K] * score[:, None]
    if seed % 3 == 2: options['activated'], pred = True, torch.sigmoid(pred / 2)
    return 'QualityFocalLoss', options, [((pred, target), reducing(g, seed, weights(g, N)))]


def distribution_focal(g, seed):
    N, n = sizes(g, seed)
    distances = torch.rand(N, generator=g) * (n - .01)
    return 'DistributionFocalLoss', dict(loss_weight=pick(seed, 1., .25)), [((logits(g, N, n + 1), distances), reducing(g, seed, weights(g, N)))]


def varifocal(g, seed):
    N, K = sizes(g, seed)
    target = torch.rand(N, K, generator=g) * (torch.rand(N, K, generator=g) < .3)
    options = dict(alpha=pick(seed, .75, .5), gamma=pick(seed, 2., 1.5), iou_weighted=bool(seed % 3))
    return 'VarifocalLoss', options, [((logits(g, N, K), target), reducing(g, seed, weights(g, N, K)))]


def gaussian_focal(g, seed):
    M, K = sizes(g, seed)
    pred = torch.sigmoid(logits(g, M, K)).clamp(1e-4, 1 - 1e-4)
    target = torch.rand(M, K, generator=g)
    target.view(-1)[torch.rand(M * K, generator=g) < .2] = 1.
    options = dict(alpha=pick(seed, 2., 1.5), gamma=pick(seed, 4., 2.), pos_weight=pick(seed, 1., .5), neg_weight=pick(seed, 1., .75))
    if seed % 3: return 'GaussianFocalLoss', options, [((pred, target), reducing(g, seed, weights(g, M, K)))]
    n = int(torch.randint(1, 5, (), generator=g))
    places = dict(pos_inds=torch.randint(M, (n,), generator=g), pos_labels=torch.randint(K, (n,), generator=g))
    kwargs = dict(reduction_override=pick(seed, 'mean', 'sum'))
    if seed % 4 == 2: kwargs['avg_factor'] = 3.
    return 'GaussianFocalLoss', options, [((pred, target), kwargs | places)]


def ghmc(g, seed):
    N, K = sizes(g, seed)
    options = dict(bins=pick(seed, 10, 5, 30), momentum=pick(seed, 0, .75, .9), loss_weight=pick(seed, 1., 2.))
    calls = []
    for _ in range(3 if options['momentum'] else 1):
        label, dense = torch.randint(K + 1, (N,), generator=g), seed % 2
        if dense: label = torch.nn.functional.one_hot(label, K + 1)[:, :K]
        calls.append(((logits(g, N, K), label, weights(g, N, K) if dense else weights(g, N)), dict(reduction_override=pick(seed, 'mean', 'none'))))
    return 'GHMC', options, calls


def ghmr(g, seed):
    N = sizes(g, seed)[0]
    options = dict(mu=pick(seed, .02, .1), bins=pick(seed, 10, 5), momentum=pick(seed, 0, .7), loss_weight=pick(seed, 1., 10.))
    call = lambda: ((torch.randn(N, 4, generator=g) * .1, torch.randn(N, 4, generator=g) * .1, weights(g, N, 4).round()),
                    dict(reduction_override=pick(seed // 2, 'mean', 'none')))
    return 'GHMR', options, [call() for _ in range(3 if options['momentum'] else 1)]


def seesaw(g, seed):
    N, K = sizes(g, seed)
    options = dict(num_classes=K, p=pick(seed, .8, 0., .5), q=pick(seed, 2., 1., 0.), loss_weight=pick(seed, 1., 2.), return_dict=bool(seed % 2))
    calls = []
    for _ in range(3):
        label = torch.randint(K + 1, (N,), generator=g)
        kwargs = reducing(g, 4 * seed + seed % 2 * 2, torch.rand(N, generator=g) + .1, name='label_weights')       # mean or sum
        calls.append(((logits(g, N, K + 2), label), kwargs))
    return 'SeesawLoss', options, calls


def equalized(g, seed):
    N, K = sizes(g, seed)
    options = dict(num_classes=K, mu=pick(seed, .8, .5), alpha=pick(seed, 4., 2.), gamma=pick(seed, 12, 6), loss_weight=pick(seed, 1., 2.))
    return 'EQLV2Loss', options, [((logits(g, N, K + 1), torch.randint(K + 1, (N,), generator=g)), {}) for _ in range(3)]


def dice(g, seed):
    N, size = sizes(g, seed)
    pred, target = logits(g, N, size, size), (torch.rand(N, size, size, generator=g) < .4).float()
    options = dict(naive_dice=bool(seed % 2), eps=pick(seed, 1e-3, 1.), loss_weight=pick(seed, 1., 3.))
    if seed % 3 == 2: options['activate'], pred = False, pred.sigmoid()
    return 'DiceLoss', options, [((pred, target), reducing(g, seed, weights(g, N)))]


def distillation(g, seed):
    N, C = sizes(g, seed)
    return ('KnowledgeDistillationKLDivLoss', dict(T=pick(seed, 10, 1, 4), loss_weight=pick(seed, 1., .25)),
            [((logits(g, N, C), logits(g, N, C)), reducing(g, seed, weights(g, N)))])


CASES = {
    'softmax cross entropy': softmax_ce, 'sigmoid cross entropy': sigmoid_ce, 'mask cross entropy': mask_ce, 'focal': focal,
    'L1': offsets('L1Loss'), 'MSE': offsets('MSELoss'), 'smooth L1': offsets('SmoothL1Loss', beta=(1., 1 / 9, .5)),
    'balanced L1': offsets('BalancedL1Loss', alpha=(.5, .3), gamma=(1.5, 1.), beta=(1., .5)),
    'IoU': overlap('IoULoss', mode=('log', 'linear', 'square')), 'IoU linear': overlap('IoULoss', linear=(True, False)),
    'GIoU': overlap('GIoULoss'), 'DIoU': overlap('DIoULoss'), 'CIoU': overlap('CIoULoss'), 'bounded IoU': overlap('BoundedIoULoss', beta=(.2, .5)),
    'EIoU': overlap('EIoULoss', smooth_point=(.1, .3)), 'SIoU': overlap('SIoULoss', neg_gamma=(True, False)),
    'quality focal': quality_focal, 'distribution focal': distribution_focal, 'varifocal': varifocal, 'gaussian focal': gaussian_focal,
    'GHM-C': ghmc, 'GHM-R': ghmr, 'seesaw': seesaw, 'equalized': equalized, 'dice': dice, 'distillation': distillation}


def run(namespace, name, seed):
    "Values and gradients of each call, and the module's state after the last one."
    cls, options, calls = CASES[name](torch.Generator().manual_seed(seed), seed)
    module, results = getattr(namespace, cls)(**options), []
    for (pred, *rest), kwargs in calls:
        pred = pred.clone().requires_grad_()
        out = module(pred, *rest, **kwargs)
        terms = list(out.values()) if isinstance(out, dict) else [out]
        grad, = torch.autograd.grad(sum(t.sum() for t in terms), pred)
        results.append(([t.detach().flatten() for t in terms], grad))
    return results, {k: v.clone() for k, v in module.state_dict().items()}
