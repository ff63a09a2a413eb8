"Anchors: numbers that are published, parity with torchvision, faults."
import copy
import pickle

import pytest
import torch

from learndet.task_modules.prior_generators.anchor_generator import (AnchorGenerator, LegacyAnchorGenerator, base_anchors,
                                                                      single_level_grid_priors)

SIZES = [(104, 336), (52, 168), (26, 84), (13, 42), (7, 21)]


def rpn(**kwargs): return AnchorGenerator([4, 8, 16, 32, 64], [.5, 1., 2.], [8], **kwargs)


def test_published_sizes():
    "base 4, ratios ½ 1 2, scales 8 16, in this order."
    b = base_anchors(4, [.5, 1., 2.], [8., 16.])
    wh = [[45.25, 22.63], [90.51, 45.25], [32, 32], [64, 64], [22.63, 45.25], [45.25, 90.51]]
    assert torch.allclose(b[:, 2:] - b[:, :2], torch.tensor(wh), atol=.01)
    assert torch.allclose(b[0], torch.tensor([-22.6274, -11.3137, 22.6274, 11.3137]), atol=1e-4)
    assert torch.allclose(b[:, 2:] + b[:, :2], torch.zeros(6, 2))


def test_published_legacy_boxes():
    legacy = LegacyAnchorGenerator([4], [.5, 1., 2.], [8, 16], center_offset=.5)
    assert legacy.base_anchors[0].tolist() == [[-21, -9, 24, 12], [-43, -21, 46, 24], [-14, -14, 17, 17],
                                               [-30, -30, 33, 33], [-9, -21, 12, 24], [-21, -43, 24, 46]]
    assert torch.equal(legacy.grid_priors([(2, 3)])[0].view(2, 3, 6, 4)[1, 2] - legacy.base_anchors[0], torch.tensor([[8., 4, 8, 4]] * 6))


def test_published_counts():
    assert [len(p) for p in rpn().grid_priors(SIZES)] == [104832, 26208, 6552, 1638, 441]
    six = AnchorGenerator([4, 8], [.5, 1., 2.], [8, 16])
    assert six.num_base_priors == [6, 6] and sum(map(len, six.grid_priors([(160, 160), (80, 80)]))) == 192_000


def test_grid_of_two_levels():
    one, two = AnchorGenerator([16, 32], [1.], [1.], [9, 18]).grid_priors([(2, 2), (1, 1)])
    assert one.tolist() == [[-4.5, -4.5, 4.5, 4.5], [11.5, -4.5, 20.5, 4.5], [-4.5, 11.5, 4.5, 20.5], [11.5, 11.5, 20.5, 20.5]]
    assert two.tolist() == [[-9, -9, 9, 9]]


def test_equal_to_torchvision_where_that_one_does_not_round():
    tv = pytest.importorskip('torchvision.models.detection.anchor_utils')
    images = pytest.importorskip('torchvision.models.detection.image_list').ImageList(torch.zeros(1, 3, 64, 96), [(64, 96)])
    theirs = tv.AnchorGenerator(((32, 64), (128, 256)), ((1.,), (1.,)))(images, [torch.zeros(1, 1, 8, 12), torch.zeros(1, 1, 4, 6)])[0]
    ours = torch.cat(AnchorGenerator([8, 16], [1.], [4, 8], base_sizes=[8, 32]).grid_priors([(8, 12), (4, 6)]))
    assert torch.equal(ours, theirs)


def test_octaves_pairs_and_centers():
    retina = AnchorGenerator([8, 16, 32, 64, 128], [.5, 1., 2.], octave_base_scale=4, scales_per_octave=3)
    assert retina.num_base_priors == [9] * 5 and retina.num_levels == 5
    sides = [(b[3, 2] - b[3, 0]).item() for b in retina.base_anchors]                    # ratio 1, first scale
    assert sides == [32, 64, 128, 256, 512]
    tall = AnchorGenerator([(8, 32)], [1.], [2.])
    assert tall.base_sizes == [8] and tall.grid_priors([(2, 2)])[0].tolist() == [
        [-8, -8, 8, 8], [0, -8, 16, 8], [-8, 24, 8, 40], [0, 24, 16, 40]]
    yolact = AnchorGenerator([550 / 69], [1.], octave_base_scale=3, scales_per_octave=1, base_sizes=[8], centers=[(550 * .5 / 69,) * 2])
    centers = yolact.grid_priors([(69, 69)])[0].view(69, 69, 4)
    assert torch.allclose((centers[-1, -1, :2] + centers[-1, -1, 2:]) / 2, torch.tensor([550 - 550 / 138] * 2), atol=1e-3)
    assert AnchorGenerator([16], [1.], [1.], center_offset=.5, base_sizes=[32]).base_anchors[0].tolist() == [[0, 0, 32, 32]]


@pytest.mark.parametrize('wrong, words', [
    (dict(scales=None), 'either scales or both'), (dict(octave_base_scale=4, scales_per_octave=3), 'either scales or both'),
    (dict(base_sizes=[8, 8, 8]), '3 base_sizes for 2 strides'), (dict(centers=[(0, 0)]), '1 centers for 2 strides'),
    (dict(center_offset=1.5), 'got 1.5'), (dict(center_offset=.5, centers=[(0, 0), (0, 0)]), 'not both'),
    (dict(ratios=[-1.]), 'positive'), (dict(scales=[0]), 'positive')])
def test_faults(wrong, words):
    with pytest.raises(ValueError, match=words): AnchorGenerator(**{**dict(strides=[8, 16], ratios=[1.], scales=[4]), **wrong})


def test_kept_priors():
    generator = rpn()
    with torch.inference_mode(): first = generator.grid_priors(SIZES)
    assert generator.grid_priors([torch.Size(s) for s in SIZES])[0] is first[0] and not first[0].is_inference()
    generator.grid_priors(SIZES).clear()                                                 # the list is the caller's
    assert len(generator.grid_priors(SIZES)) == 5
    for n in range(1, 50): generator.grid_priors([(n, 1)] * 5)
    assert len(generator._kept) <= 32
    for twin in (copy.deepcopy(generator), pickle.loads(pickle.dumps(generator))):
        assert torch.equal(twin.grid_priors(SIZES)[3], first[3])
    assert generator.grid_priors(SIZES, device='meta')[0].device.type == 'meta'
    with pytest.raises(ValueError, match='4 feature maps for 5 strides'): generator.grid_priors(SIZES[:4])


def test_flags():
    generator = rpn()
    priors = torch.cat(generator.grid_priors(SIZES))
    shapes = torch.tensor([[416, 1344], [403, 1333], [416, 800], [1, 1]])
    flags = generator.valid_flags(SIZES, shapes)
    assert flags[0].all() and flags[3].sum() == 15                                       # one cell a level
    corner = torch.cat([single_level_grid_priors(torch.zeros(3, 4), size, s) for size, s in zip(SIZES, generator.strides)])[:, :2]
    for b, (h, w) in enumerate(shapes.tolist()): assert torch.equal(flags[b], (corner[:, 0] < w) & (corner[:, 1] < h))
    assert torch.equal(flags, generator.valid_flags(SIZES, shapes.tolist()))
    inside = generator.inside_flags(priors, flags, shapes, 0)
    for b, (h, w) in enumerate(shapes.tolist()):
        expected = flags[b] & (priors[:, :2] >= 0).all(1) & (priors[:, 2] < w) & (priors[:, 3] < h)
        assert torch.equal(inside[b], expected)
    assert generator.inside_flags(priors, flags, shapes, -1) is flags
    assert (generator.inside_flags(priors, flags, shapes, 1e6) == flags).all()


def test_empty_maps_and_repr():
    assert AnchorGenerator([8], [1.], [4]).grid_priors([(0, 5)])[0].shape == (0, 4)
    assert repr(AnchorGenerator([8, (8, 16)], [1.], [4])) == 'AnchorGenerator(strides=[8, (8, 16)], ratios=[1.0], scales=[4], base_sizes=[8, 8])'
