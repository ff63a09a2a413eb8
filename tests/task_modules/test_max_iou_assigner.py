"The max-IoU assigner: a dense loop over objects, torchvision's matcher, memory, compilation, faults."
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from learndet.structures.overlaps import BboxOverlaps2D, bbox_overlaps
from learndet.task_modules.assigners.approx_max_iou_assigner import ApproxMaxIoUAssigner
from learndet.task_modules.assigners.assign_result import IGNORE, NEGATIVE, AssignResult, labels_of
from learndet.task_modules.assigners.max_iou_assigner import MaxIoUAssigner, digits
from learndet.task_modules.assigners.points_and_grids import GridAssigner, UniformAssigner


def boxes(*shape, seed=0, size=60):
    generator = torch.Generator().manual_seed(seed)
    xy, wh = torch.rand(*shape, 2, generator=generator) * 200, torch.rand(*shape, 2, generator=generator) * size + 4
    return torch.cat([xy, xy + wh], dim=-1)


def loop(iou, pos, neg, least=0., every=True, low=True):
    "The rules on one image's (G, P) matrix, an object at a time, in MMDetection's order."
    (G, P), (start, stop) = iou.shape, neg if isinstance(neg, tuple) else (0., neg)
    codes = torch.full((P,), IGNORE)
    best, index = iou.max(dim=0) if G else (torch.zeros(P), torch.zeros(P, dtype=torch.long))
    codes[(best >= start) & (best < stop)] = NEGATIVE
    codes[best >= pos] = index[best >= pos] + 1
    for i in range(G if low and P else 0):
        most, where = iou[i].max(dim=0)
        if most >= least and most > 0: codes[iou[i] == most if every else where] = i + 1
    return codes


class Given:
    "An IoU calculator that knows the matrix: priors and objects are numbers in their first coordinate."
    def __init__(self, matrix): self.matrix = matrix

    def __call__(self, gts, priors, mode='iou'): return self.matrix[gts[..., 0].long()][..., priors[..., 0].long()]


def numbered(n): return torch.arange(n, dtype=torch.float32)[:, None].expand(n, 4)


@pytest.mark.parametrize('seed', range(60))
def test_equal_to_the_loop_on_matrices_full_of_ties(seed):
    torch.manual_seed(seed)
    G, P = int(torch.randint(1, 7, ())), int(torch.randint(1, 40, ()))
    iou = (torch.rand(G, P) * 10).round() / 10 * (torch.rand(G, P) < .6)
    for s in (dict(), dict(every=False), dict(low=False), dict(least=.6), dict(neg=(.2, .4))):
        s = {**dict(pos=.7, neg=.4), **s}
        ours = MaxIoUAssigner(s['pos'], s['neg'], s.get('least', 0.), s.get('every', True), match_low_quality=s.get('low', True),
                              iou_calculator=Given(iou))
        assert torch.equal(ours.assign(numbered(P), numbered(G)).gt_inds, loop(iou, **s)), s


@pytest.mark.parametrize('G, P', [(0, 5), (5, 0), (0, 0), (1, 1), (300, 2000), (3, 70_000)])
def test_equal_to_the_loop_at_all_sizes(G, P):
    gts, priors = boxes(2, G, seed=1), boxes(P)
    result = MaxIoUAssigner(.5, .4).assign(priors, gts, gt_labels=torch.arange(G).expand(2, G))
    for b in range(2):
        wanted = loop(bbox_overlaps(gts[b], priors), .5, .4)
        assert torch.equal(result.gt_inds[b], wanted)
        assert torch.equal(result.labels[b], wanted.clamp(min=0) - 1)
    assert result.max_overlaps.shape == (2, P) and result.num_gts.tolist() == [G, G]


def test_equal_to_torchvision():
    utils = pytest.importorskip('torchvision.models.detection._utils')
    for seed in range(20):
        gts, priors = boxes(6, seed=seed), boxes(400, seed=seed + 100)
        iou = bbox_overlaps(gts, priors)
        theirs = utils.Matcher(.5, .4, allow_low_quality_matches=False)(iou)
        ours = MaxIoUAssigner(.5, .4, match_low_quality=False).assign(priors, gts).gt_inds
        assert torch.equal(ours, torch.where(theirs == -1, NEGATIVE, torch.where(theirs == -2, IGNORE, theirs + 1)))
        theirs, ours = utils.Matcher(.5, .4, allow_low_quality_matches=True)(iou), MaxIoUAssigner(.5, .4).assign(priors, gts).gt_inds
        differs = ours != torch.where(theirs == -1, NEGATIVE, torch.where(theirs == -2, IGNORE, theirs + 1))
        assert (ours[differs] > 0).all() and (theirs[differs] >= 0).all()        # both positive, for two objects: ours is who claims it
        assert torch.equal(iou[ours[differs] - 1, differs.nonzero()[:, 0]], iou.amax(1)[ours[differs] - 1])


def test_published_example_and_shapes():
    result = MaxIoUAssigner(.5, .5).assign(torch.tensor([[0., 0, 10, 10], [10, 10, 20, 20]]), torch.tensor([[0., 0, 10, 9]]), torch.tensor([0]))
    assert result.gt_inds.tolist() == [1, 0] and result.labels.tolist() == [0, -1]
    proposals = torch.cat([boxes(1000), torch.rand(1000, 1)], dim=1)             # with a score, as a second stage of old gives them
    result = MaxIoUAssigner(.5, .5, .5, match_low_quality=False).assign(proposals, boxes(1, seed=3), torch.tensor([2]))
    assert result.gt_inds.shape == result.max_overlaps.shape == result.labels.shape == (1000,)
    assert torch.equal(result.gt_inds, MaxIoUAssigner(.5, .5, .5, match_low_quality=False).assign(proposals[:, :4], boxes(1, seed=3)).gt_inds)


def test_thresholds_belong_upwards():
    iou = torch.tensor([[.3999, .4, .45, .5, .7]])
    assert MaxIoUAssigner(.5, .4, match_low_quality=False, iou_calculator=Given(iou)).assign(numbered(5), numbered(1)).gt_inds.tolist() == [0, -1, -1, 1, 1]


def test_an_object_that_overlaps_nothing_takes_nothing():
    priors = boxes(50)
    result = MaxIoUAssigner(.5, .4, min_pos_iou=0.).assign(priors, torch.tensor([[900., 900, 950, 950], [5., 5, 5, 5]]))
    assert (result.gt_inds == NEGATIVE).all()


def test_ignore_regions():
    priors, gts = torch.tensor([[0., 0, 10, 10], [20, 0, 30, 10], [40, 0, 80, 40]]), torch.tensor([[0., 0, 10, 10]])
    regions = torch.tensor([[0., 0, 30, 10], [45, 5, 50, 10]])
    assign = lambda **k: MaxIoUAssigner(.5, .4, **k).assign(priors, gts, gt_bboxes_ignore=regions).gt_inds.tolist()
    assert assign() == [1, 0, 0]                                                 # off
    assert assign(ignore_iof_thr=.5) == [-1, -1, 0]                              # share of the prior; even a perfect one
    assert assign(ignore_iof_thr=.5, ignore_wrt_candidates=False) == [1, 0, -1]  # share of the region
    batch = MaxIoUAssigner(.5, .4, ignore_iof_thr=.5).assign(priors, gts.expand(2, 1, 4), gt_bboxes_ignore=regions.expand(2, 2, 4),
                                                            ignore_valid=torch.tensor([[True, True], [False, True]]))
    assert batch.gt_inds.tolist() == [[-1, -1, 0], [1, 0, 0]]
    empty = MaxIoUAssigner(.5, .4, ignore_iof_thr=.5).assign(priors, gts[:0], gt_bboxes_ignore=regions)
    assert empty.gt_inds.tolist() == [-1, -1, 0]                                 # also where there is no object
    assert MaxIoUAssigner(.5, .4, ignore_iof_thr=.5).assign(priors, gts, gt_bboxes_ignore=regions[:0]).gt_inds.tolist() == [1, 0, 0]


def test_many_objects_go_to_the_cpu_when_asked():
    "On the meta device, which has no numbers to copy, the attempt to leave it shows which way was taken."
    priors, gts = torch.zeros(7, 4, device='meta'), torch.zeros(2, 5, 4, device='meta')
    assert MaxIoUAssigner(.5, .4, gpu_assign_thr=5).assign(priors, gts).gt_inds.device.type == 'meta'
    assert MaxIoUAssigner(.5, .4, gpu_assign_thr=-1).assign(priors, gts).gt_inds.shape == (2, 7)
    with pytest.raises(NotImplementedError, match='meta'): MaxIoUAssigner(.5, .4, gpu_assign_thr=4).assign(priors, gts)
    gts, priors = boxes(9), boxes(50, seed=1)
    assert torch.equal(MaxIoUAssigner(.5, .4, gpu_assign_thr=2).assign(priors, gts).gt_inds, MaxIoUAssigner(.5, .4).assign(priors, gts).gt_inds)


def test_half_precision_overlaps():
    half = MaxIoUAssigner(.5, .4, iou_calculator=BboxOverlaps2D(scale=1., dtype='fp16'))
    result = half.assign(boxes(300), boxes(4, seed=1))
    assert (result.gt_inds == MaxIoUAssigner(.5, .4).assign(boxes(300), boxes(4, seed=1)).gt_inds).float().mean() > .97


class Largest(TorchDispatchMode):
    "Remember how many numbers the largest tensor has that is made inside."
    def __init__(self): super().__init__(); self.numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for t in out if isinstance(out, (tuple, list)) else [out]:
            if torch.is_tensor(t) and not any(t.untyped_storage().data_ptr() == a.untyped_storage().data_ptr() for a in args if torch.is_tensor(a)):
                self.numel = max(self.numel, t.numel())
        return out


def test_memory_does_not_grow_with_the_matrix():
    "5,000 objects: no tensor is larger than a piece or than the priors, while the matrix has 35 million numbers."
    gts, priors = boxes(1, 5000, size=30), boxes(7000, seed=1)
    with Largest() as largest: result = MaxIoUAssigner(.5, .4).assign(priors, gts).gt_inds
    assert largest.numel <= 5000 * 256
    assert torch.equal(result[0, ::20], loop(bbox_overlaps(gts[0], priors), .5, .4)[::20])


def test_gradients_do_not_pass():
    priors = boxes(1, 20).requires_grad_()
    assert not MaxIoUAssigner(.5, .4).assign(priors, boxes(1, 3)).max_overlaps.requires_grad


def test_nan_priors_are_nobodys():
    priors = boxes(10)
    priors[3] = float('nan')
    result = MaxIoUAssigner(.5, .4).assign(priors, priors[:1].clone())
    assert result.gt_inds[3] <= NEGATIVE and result.gt_inds[0] == 1


@pytest.mark.parametrize('backend, options', [('inductor', dict(ignore_iof_thr=.5)), ('aot_eager', dict(gt_max_assign_all=False))])
def test_one_graph(backend, options):
    "torch.compile takes the whole function, and its answer is the same."
    gts, priors, valid = boxes(2, 4), boxes(60, seed=1), torch.tensor([[True] * 4, [True, False, False, False]])
    regions, labels, assigner = boxes(2, 1, seed=2), torch.arange(4).expand(2, 4), MaxIoUAssigner(.5, .4, **options)
    compiled = torch.compile(assigner.assign, fullgraph=True, dynamic=False, backend=backend)
    ours, theirs = assigner.assign(priors, gts, labels, valid, regions), compiled(priors, gts, labels, valid, regions)
    assert torch.equal(ours.gt_inds, theirs.gt_inds) and torch.equal(ours.labels, theirs.labels)


def test_trace_says_why():
    priors = torch.tensor([[0., 0, 10, 10], [0, 0, 10, 4.5], [0, 0, 10, 2], [50, 50, 60, 60], [0, 0, 10, 3.9996], [70, 0, 80, 10]])
    trace = MaxIoUAssigner(.5, .4, ignore_iof_thr=.5).trace(priors, torch.tensor([[0., 0, 10, 10], [50, 50, 90, 60]]),
                                                           torch.tensor([[70., 0, 80, 10]]), torch.tensor([True] * 5 + [True]))
    assert trace.gt_inds.tolist() == [1, -1, 0, 2, 0, -1]
    assert trace.why(0) == 'prior 0 is positive for object 0: IoU 1.000 >= pos_iou_thr 0.5'
    assert trace.why(1) == 'prior 1 is ignored: best IoU 0.450 (object 0) >= neg_iou_thr 0.4, but 0.450 < pos_iou_thr 0.5'
    assert trace.why(3) == 'prior 3 is positive for object 1: no prior is better for object 1, and IoU 0.250 >= min_pos_iou 0.0'
    assert trace.why(4) == 'prior 4 is negative: best IoU 0.39996 (object 0) < neg_iou_thr 0.4'
    assert trace.why(5) == 'prior 5 is ignored: overlap with an ignored region 1.000 > ignore_iof_thr 0.5'
    assert 'better prior, with IoU 1.000' in trace.why_not(2, 0) and trace.why_not(0, 0) == trace.why(0)
    assert list(trace.steps) == ['start', 'negative', 'positive', 'low_quality', 'left_out'] and str(trace).count('\n') == 5
    out = MaxIoUAssigner(.5, .4).trace(priors, torch.zeros(0, 4), prior_valid=torch.tensor([False] + [True] * 5))
    assert out.why(0) == 'prior 0 is ignored: it is not a valid prior' and 'overlaps no object' in out.why(1)
    assert (out.num_pos, out.orphans) == ([], [])


@pytest.mark.parametrize('value, threshold, text', [(.39996, .4, '0.39996'), (.4, .4, '0.400'), (.35, .4, '0.350'), (.49999997, .5, '0.49999997')])
def test_digits(value, threshold, text): assert digits(value, threshold) == text


@pytest.mark.parametrize('wrong', [dict(pos_iou_thr=.4, neg_iou_thr=.5), dict(pos_iou_thr=.5, neg_iou_thr=(.4, .3)), dict(pos_iou_thr=.5, neg_iou_thr=-.1)])
def test_thresholds_out_of_order(wrong):
    with pytest.raises(ValueError, match='neg_iou_thr <= pos_iou_thr'): MaxIoUAssigner(**wrong)


@pytest.mark.parametrize('make, name', [(lambda: MaxIoUAssigner(5, .4), 'pos_iou_thr'), (lambda: MaxIoUAssigner(.5, .4, min_pos_iou=1.5), 'min_pos_iou'),
    (lambda: ApproxMaxIoUAssigner(5, .4), 'pos_iou_thr'), (lambda: GridAssigner(5, .4), 'pos_iou_thr'), (lambda: UniformAssigner(.15, 7), 'neg_ignore_thr')])
def test_a_threshold_that_no_iou_can_reach(make, name):
    with pytest.raises(ValueError, match=f'{name} is compared with an IoU, which is from 0 to 1'): make()


def test_other_measures_have_other_limits():
    assert MaxIoUAssigner(5, 4, iou_calculator=lambda a, b, **kwargs: None).pos_iou_thr == 5
    assert MaxIoUAssigner(1., (0., 1.)).pos_iou_thr == 1                                       # the limits themselves are allowed


def test_batches_that_do_not_fit():
    with pytest.raises(ValueError, match='different batches'): MaxIoUAssigner(.5, .4).assign(boxes(3, 9), boxes(2, 4))
    with pytest.raises(ValueError, match='different batches'): MaxIoUAssigner(.5, .4).assign(boxes(2, 9), boxes(4))
    with pytest.raises(ValueError, match='different batches'): labels_of(torch.zeros(2, 3).long(), torch.zeros(3, 4).long())


def test_add_gt():
    result = AssignResult(torch.tensor([[0, 1], [-1, 2]]), torch.rand(2, 2), torch.tensor([[-1, 4], [-1, 6]]), torch.tensor([1, 2]))
    more = result.add_gt(torch.tensor([[True, False], [True, True]]), torch.tensor([[4, 0], [5, 6]]))
    assert more.gt_inds.tolist() == [[1, -1, 0, 1], [1, 2, -1, 2]]
    assert more.labels.tolist() == [[4, -1, -1, 4], [5, 6, -1, 6]]
    assert more.max_overlaps[:, :2].tolist() == [[1, -1], [1, 1]]
    assert AssignResult(result.gt_inds, result.max_overlaps).add_gt(torch.ones(2, 0, dtype=torch.bool)).labels is None
