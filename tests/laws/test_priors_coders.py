"Laws of every prior generator and every box coder, over random inputs."
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from learndet.core.registry import build
from learndet.task_modules.coders.bucketing_coder import BucketingBBoxCoder
from learndet.task_modules.coders.delta_xywh_coder import DeltaXYWHBBoxCoder, DeltaXYWHBBoxCoderForGLIP, LegacyDeltaXYWHBBoxCoder
from learndet.task_modules.coders.distance_point_coder import DistancePointBBoxCoder
from learndet.task_modules.coders.pseudo_coder import PseudoBBoxCoder
from learndet.task_modules.coders.tblr_coder import TBLRBBoxCoder
from learndet.task_modules.coders.yolo_coder import YOLOBBoxCoder
from learndet.task_modules.prior_generators.anchor_generator import AnchorGenerator, LegacyAnchorGenerator
from learndet.task_modules.prior_generators.point_generator import MlvlPointGenerator
from learndet.task_modules.prior_generators.ssd_anchor_generator import LegacySSDAnchorGenerator, SSDAnchorGenerator
from learndet.task_modules.prior_generators.yolo_anchor_generator import YOLOAnchorGenerator

quick = settings(max_examples=15, deadline=None)
seeds, STRIDE = st.integers(0, 2 ** 20), 16.


def middle(priors): return (priors[..., :2] + priors[..., 2:]) / 2


# every coder as `there(priors, gts) -> codes` and `back(priors, codes, max_shape) -> boxes`, all from the same boxes as priors
def bucketing(**options):
    coder = BucketingBBoxCoder(6, 1.7, **options)
    def there(priors, gts):
        offsets, _, labels, _ = coder.encode(priors, gts)
        return torch.stack([40 * labels, offsets], dim=-1)
    return there, lambda priors, codes, shape=None: coder.decode(priors, codes.unbind(-1), shape)[0]


def plain(coder): return coder.encode, coder.decode
def from_points(coder):
    return lambda p, g: coder.encode(middle(p), g), lambda p, codes, shape=None: coder.decode(middle(p), codes, shape)


def in_cells(coder):
    return lambda p, g: coder.encode(p, g, STRIDE), lambda p, codes, shape=None: coder.decode(p, codes, STRIDE, shape)


CODERS = dict(delta=plain(DeltaXYWHBBoxCoder(target_means=(.01, 0., -.02, 0.), target_stds=(.1, .1, .2, .2))),
              pseudo=plain(PseudoBBoxCoder()), distance=from_points(DistancePointBBoxCoder()),
              tblr=plain(TBLRBBoxCoder()), tblr4=plain(TBLRBBoxCoder([1., 2., 3., 4.])),
              yolo=in_cells(YOLOBBoxCoder()), bucketing=bucketing(), bucketing1=bucketing(offset_topk=1, cls_ignore_neighbor=False))
ALL = {**CODERS, 'legacy': plain(LegacyDeltaXYWHBBoxCoder()), 'glip': plain(DeltaXYWHBBoxCoderForGLIP())}      # those lose a pixel
every = pytest.mark.parametrize('name', CODERS)


def pairs(seed, *shape):
    "Priors, and objects whose middle is less than half a stride away."
    g = torch.Generator().manual_seed(seed)
    xy, shift = torch.rand(*shape, 2, generator=g) * 200, (torch.rand(*shape, 2, generator=g) - .5) * .98 * STRIDE
    sizes = torch.rand(2, *shape, 2, generator=g) * 60 + 2
    return torch.cat([xy - sizes[0], xy + sizes[0]], dim=-1), torch.cat([xy + shift - sizes[1], xy + shift + sizes[1]], dim=-1)


@every
@quick
@given(seeds, st.integers(0, 12))
def test_decode_undoes_encode(name, seed, P):
    (there, back), (priors, gts) = CODERS[name], pairs(seed, P)
    assert torch.allclose(back(priors, there(priors, gts)), gts, atol=2e-3)


@pytest.mark.parametrize('name', ALL)
@quick
@given(seeds, st.integers(1, 3), st.integers(0, 6))
def test_a_batch_is_its_images(name, seed, B, P):
    there, back = ALL[name]
    priors, gts = pairs(seed, B, P)
    shapes = torch.tensor([[90, 70], [300, 40], [50, 50]])[:B]
    codes = there(priors, gts)
    boxes = back(priors, codes, shapes)
    for b in range(B):
        assert torch.equal(codes[b], there(priors[b], gts[b]))
        assert torch.equal(boxes[b], back(priors[b], codes[b], tuple(shapes[b].tolist())))
        assert torch.equal(boxes[b:b + 1], back(priors[b:b + 1], codes[b:b + 1], shapes[b:b + 1]))
    shared = there(priors[0], gts)                                                     # the same priors for all images need no B
    assert torch.allclose(shared, there(priors[:1].expand(B, -1, -1), gts), atol=1e-5, rtol=1e-5)


@every
@quick
@given(seeds, st.integers(-64, 64), st.integers(-64, 64))
def test_moving_everything_moves_the_answer(name, seed, x, y):
    (there, back), (priors, gts) = CODERS[name], pairs(seed, 8)
    shift = torch.tensor([x, y, x, y])
    codes = there(priors, gts)
    if name != 'pseudo': assert torch.allclose(there(priors + shift, gts + shift), codes, atol=2e-3)
    if name == 'pseudo': codes = codes + shift                                         # a box is its own code
    assert torch.allclose(back(priors + shift, codes), gts + shift, atol=5e-3)


@pytest.mark.parametrize('name', ALL)
@quick
@given(seeds, st.integers(1, 200), st.integers(1, 200), st.sampled_from([1., 100., 1e6]))
def test_decoded_boxes_are_finite_and_inside(name, seed, h, w, scale):
    there, back = ALL[name]
    priors, gts = pairs(seed, 2, 6)
    codes = (torch.randn(there(priors, gts).shape, generator=torch.Generator().manual_seed(seed)) * scale)
    out = back(priors, codes, (h, w))
    assert out.isfinite().all() and (out >= 0).all() and (out[..., 0::2] <= w).all() and (out[..., 1::2] <= h).all()


@pytest.mark.parametrize('name', ALL)
def test_padding_is_finite_and_has_gradients(name):
    "Rows of zeros, as priors, as objects or as both; priors without a width; exact hits."
    there, back = ALL[name]
    priors, gts = pairs(0, 6)
    zeros, flat = torch.zeros(6, 4), torch.tensor([[5., 5., 5., 9.]] * 6)
    for p, g in [(priors, zeros), (zeros, gts), (zeros, zeros), (priors, priors), (flat, gts), (gts, flat)]:
        codes = there(p, g).requires_grad_()
        assert codes.isfinite().all()
        back(p, codes, (100, 100)).sum().backward()
        assert codes.grad.isfinite().all()


@pytest.mark.parametrize('name', ALL)
def test_nothing_to_code(name):
    there, back = ALL[name]
    for shape in [(0, 4), (2, 0, 4), (0, 3, 4)]:
        codes = there(torch.zeros(shape), torch.zeros(shape))
        assert back(torch.zeros(shape), codes).shape == shape


@pytest.mark.parametrize('name', ALL)
def test_one_graph(name):
    "Nothing in a coder breaks the graph of torch.compile."
    there, back = ALL[name]
    priors, gts = pairs(1, 2, 5)
    torch._dynamo.reset()                                                              # one function, many coders
    run = lambda p, g: back(p, there(p, g), torch.tensor([[90, 70], [300, 40]]))
    assert torch.equal(torch.compile(run, backend='eager', fullgraph=True)(priors, gts), run(priors, gts))


GENERATORS = dict(
    anchors=AnchorGenerator([4, (8, 16)], [.5, 1., 2.], [2., 5.]),
    legacy=LegacyAnchorGenerator([4, 8], [.5, 1.], [4], center_offset=.5),
    ssd=SSDAnchorGenerator([8, 16], [[2], [2, 3]], [20, 50], [50, 90], scale_major=False),
    yolo=YOLOAnchorGenerator([16, 8], [[(30, 10), 9], [(5, 6), 7]]),
    legacy_ssd=LegacySSDAnchorGenerator([8, 16, 32, 64, 100, 300], [[2]] * 6, (.15, .9), scale_major=False),
    points=MlvlPointGenerator([8, (16, 4)]), corners=MlvlPointGenerator([8], offset=0))


@pytest.mark.parametrize('name', GENERATORS)
@quick
@given(seeds, st.integers(1, 6), st.integers(1, 6))
def test_a_prior_is_known_by_its_number(name, seed, H, W):
    generator = GENERATORS[name]
    L, sizes = generator.num_levels, [(H, W)] * generator.num_levels
    priors = generator.grid_priors(sizes)
    assert [len(p) for p in priors] == [H * W * A for A in generator.num_base_priors]
    for level, p in enumerate(priors):
        idxs = torch.randint(len(p), (2, 5), generator=torch.Generator().manual_seed(seed))
        assert torch.allclose(generator.sparse_priors(idxs, (H, W), level), p[idxs], atol=1e-4)
        assert torch.equal(generator.single_level_grid_priors((H, W), level), p)
        down = torch.tensor([0., generator.strides[level][1]]).repeat(p.shape[1] // 2)             # one row
        if H > 1: assert torch.allclose(p[W * generator.num_base_priors[level]] - p[0], down)
    assert L == len(generator.strides) == len(priors)


@pytest.mark.parametrize('name', GENERATORS)
@quick
@given(st.integers(1, 100), st.integers(1, 100), st.integers(1, 6), st.integers(1, 6))
def test_flags(name, h, w, H, W):
    "Valid is what starts in the image; inside is a part of valid; a larger image keeps what a smaller one has."
    generator = GENERATORS[name]
    sizes, shapes = [(H, W)] * generator.num_levels, torch.tensor([[h, w], [h + 7, w + 3]])
    priors, valid = torch.cat(generator.grid_priors(sizes)), generator.valid_flags(sizes, shapes)
    rows = [(torch.arange(H) * sy < h).sum() * (torch.arange(W) * sx < w).sum() * A
            for (sx, sy), A in zip(generator.strides, generator.num_base_priors)]
    assert valid.shape == (2, len(priors)) and valid[0].sum() == sum(rows)
    for allowed in (-1, 0, 10):
        inside = generator.inside_flags(priors, valid, shapes, allowed)
        assert (inside <= valid).all() and (inside[0] <= inside[1]).all()
        if allowed >= 0: assert (priors[inside[0]][:, :2] >= -allowed).all()


@quick
@given(seeds, st.integers(0, 6), st.integers(1, 3))
def test_the_middle_of_an_object_is_in_its_responsible_cell(seed, G, B):
    generator, sizes = GENERATORS['yolo'], [(4, 5), (8, 10)]
    g = torch.Generator().manual_seed(seed)
    xy, wh = torch.rand(B, G, 2, generator=g) * torch.tensor([79., 63.]), torch.rand(B, G, 2, generator=g) * 30
    valid = torch.rand(B, G, generator=g) < .6
    gts = torch.cat([xy - wh, xy + wh], dim=-1)
    corners = [torch.cat([middle(p) - s / 2, middle(p) + s / 2], dim=1) for p, s in zip(generator.grid_priors(sizes), (16, 8))]
    cells, points = torch.cat(corners)[:, None], middle(gts)[:, None]                  # (P, 1, 4), (B, 1, G, 2)
    inside = ((points >= cells[..., :2]) & (points < cells[..., 2:])).all(-1) & valid[:, None]
    assert torch.equal(generator.responsible_flags(sizes, gts, valid), inside.any(-1))


SSD = dict(scale_major=False, input_size=300, basesize_ratio_range=(.15, .9), strides=[8, 16, 32, 64, 100, 300],
           ratios=[[2], [2, 3], [2, 3], [2, 3], [2], [2]])
CONFIGS = [dict(type='SSDAnchorGenerator', **SSD), dict(type='LegacySSDAnchorGenerator', **SSD),
           dict(type='YOLOAnchorGenerator', strides=[32, 16], base_sizes=[[(116, 90)], [(30, 61)]]),
           dict(type='MlvlPointGenerator', strides=[8, 16], offset=0),
           dict(type='PointGenerator'), dict(type='YOLOBBoxCoder'), dict(type='TBLRBBoxCoder', normalizer=4.0),
           dict(type='DistancePointBBoxCoder', use_box_type=False),
           dict(type='BucketingBBoxCoder', num_buckets=14, scale_factor=1.7), dict(type='PseudoBBoxCoder'),
           dict(type='DeltaXYWHBBoxCoderForGLIP', target_stds=[.1, .1, .2, .2]),
           dict(type='LegacyDeltaXYWHBBoxCoder', target_stds=[.1, .1, .2, .2])]


@pytest.mark.parametrize('config', CONFIGS, ids=lambda c: c['type'])
def test_configs_build(config):
    made = build(dict(config))
    assert type(made).__name__ == config['type'] and repr(made)
    assert getattr(made, 'encode_size', 4) == 4
