"Box coders: parity with torchvision, published examples, faults."
import pytest
import torch

from learndet.task_modules.coders.delta_xywh_coder import DeltaXYWHBBoxCoder, LegacyDeltaXYWHBBoxCoder

ROIS = torch.tensor([[0., 0., 1., 1.], [0., 0., 1., 1.], [0., 0., 1., 1.], [5., 5., 5., 5.]])
DELTAS = torch.tensor([[0., 0., 0., 0.], [1., 1., 1., 1.], [0., 0., 2., -1.], [.7, -1.9, -.5, .3]])


def boxes(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    xy, wh = torch.rand(*shape, 2, generator=generator) * 100, torch.rand(*shape, 2, generator=generator) * 60 + 1
    return torch.cat([xy, xy + wh], dim=-1)


def test_published_example():
    out = DeltaXYWHBBoxCoder().decode(ROIS, DELTAS, max_shape=(32, 32))
    wanted = [[0., 0., 1., 1.], [.1409, .1409, 2.8591, 2.8591], [0., .3161, 4.1945, .6839], [5., 5., 5., 5.]]
    assert torch.allclose(out, torch.tensor(wanted), atol=1e-4)


def test_published_legacy_example():
    out = LegacyDeltaXYWHBBoxCoder().decode(ROIS, DELTAS, max_shape=(32, 32))
    wanted = [[0., 0., 1.5, 1.5], [0., 0., 5.2183, 5.2183], [0., .1321, 7.8891, .8679], [5.3967, 2.4251, 6.0033, 3.7749]]
    assert torch.allclose(out, torch.tensor(wanted), atol=1e-4)


@pytest.mark.parametrize('stds', [(1., 1., 1., 1.), (.1, .1, .2, .2)])
def test_equal_to_torchvision(stds):
    utils = pytest.importorskip('torchvision.models.detection._utils')
    theirs, ours = utils.BoxCoder(tuple(1 / s for s in stds)), DeltaXYWHBBoxCoder(target_stds=stds)
    priors, gts = boxes(500), boxes(500, seed=1)
    assert torch.allclose(ours.encode(priors, gts), theirs.encode_single(gts, priors), atol=1e-4, rtol=1e-4)
    deltas = torch.randn(500, 4, generator=torch.Generator().manual_seed(2))
    assert torch.allclose(ours.decode(priors, deltas), theirs.decode_single(deltas, priors), atol=1e-3, rtol=1e-4)


def test_zero_delta_and_normalised_targets():
    coder, half = DeltaXYWHBBoxCoder(target_stds=(.1, .1, .2, .2)), DeltaXYWHBBoxCoder(target_means=(.5, 0, 0, 0), target_stds=(.5,) * 4)
    p, g = boxes(9), boxes(9, seed=2)
    assert torch.allclose(coder.encode(p, p), torch.zeros(9, 4), atol=1e-5)
    raw = DeltaXYWHBBoxCoder().encode(p, g)
    assert torch.allclose(coder.encode(p, g), raw / torch.tensor([.1, .1, .2, .2]), atol=1e-4)
    assert torch.allclose(half.encode(p, g), (raw - torch.tensor([.5, 0, 0, 0])) / .5, atol=1e-5)


def test_shapes_and_borders():
    coder, shapes = DeltaXYWHBBoxCoder(), torch.tensor([[30, 40], [200, 50]])
    p, d = boxes(2, 6, 1), torch.randn(2, 6, 3, 4)
    out = coder.decode(p, d, max_shape=shapes)                                               # (B, P, K, 4)
    for b in range(2):
        assert torch.equal(out[b], coder.decode(p[b], d[b], max_shape=tuple(shapes[b].tolist())))
        assert torch.equal(out[b], coder.decode(p[b], d[b], max_shape=shapes[b]))
    assert torch.equal(coder.decode(p, d, max_shape=(30, 40, 3)), coder.decode(p, d, max_shape=(30, 40)))
    assert torch.equal(DeltaXYWHBBoxCoder(clip_border=False).decode(p, d, max_shape=(3, 3)), coder.decode(p, d))
    assert coder.encode(torch.zeros(0, 4), torch.zeros(0, 4)).shape == coder.decode(torch.zeros(0, 4), torch.zeros(0, 4), (3, 3)).shape == (0, 4)


def test_limits():
    p = torch.tensor([[0., 0., 10., 10.]])
    wide = DeltaXYWHBBoxCoder().decode(p, torch.tensor([[0., 0., 50., -50.]]))
    assert torch.allclose(wide[0, 2:] - wide[0, :2], torch.tensor([625., .16]), atol=1e-2)
    yolof = DeltaXYWHBBoxCoder(add_ctr_clamp=True, ctr_clamp=2).decode(p, torch.tensor([[5., -5., -50., 0.]]))
    assert torch.allclose(yolof[0], torch.tensor([7., -2., 7., 8.]), atol=1e-3)              # no lower limit for sizes there


def test_gradients_padding_and_precision():
    coder, p = DeltaXYWHBBoxCoder(target_stds=(.1, .1, .2, .2)), boxes(4)
    deltas = torch.zeros(4, 4, requires_grad=True)
    coder.decode(p, deltas, max_shape=(500, 500)).sum().backward()
    assert deltas.grad.isfinite().all() and deltas.grad.abs().sum() > 0
    for priors, gts in ((p, torch.zeros(4, 4)), (torch.zeros(4, 4), p), (torch.zeros(4, 4), torch.zeros(4, 4))):
        assert coder.encode(priors, gts).isfinite().all()
    assert torch.equal(coder.decode(torch.zeros(1, 4), torch.randn(1, 4)), torch.zeros(1, 4))    # a padding proposal stays a point
    assert coder.decode(p, torch.zeros(4, 4, dtype=torch.bfloat16)).dtype == torch.float32


@pytest.mark.parametrize('wrong, words', [(dict(target_stds=(1, 1)), 'target_stds has four numbers'), (dict(target_means=()), 'target_means'),
                                          (dict(target_stds=(0, 1, 1, 1)), 'positive')])
def test_faults(wrong, words):
    with pytest.raises(ValueError, match=words): DeltaXYWHBBoxCoder(**wrong)
    with pytest.raises(ValueError, match=r'view \(N, 4·K\)'): DeltaXYWHBBoxCoder().decode(boxes(3), torch.zeros(3, 12))
