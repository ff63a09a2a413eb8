"The same answers and gradients, bit for bit, as MMDetection 3.3's `NormedLinear` and `NormedConv2d` and mmcv's `ConvWS`."
import pytest
import torch

from learndet.models.layers.cosine_layers import NormedConv2d, NormedLinear
from learndet.models.layers.weight_standardization import ConvWS2d
from mmdet_reference import available, load

pytestmark = pytest.mark.skipif(not available(), reason='MMDetection 3.3 is not installed (LEARNDET_MMDET names its folder)')


def theirs():
    load()
    from mmcv.cnn.bricks.conv_ws import ConvWS2d
    from mmdet.models.layers.normed_predictor import NormedConv2d, NormedLinear
    return dict(NormedLinear=NormedLinear, NormedConv2d=NormedConv2d, ConvWS2d=ConvWS2d)


LINEAR = [('NormedLinear', NormedLinear, (8, 5), options, (6, 8)) for options in ({}, dict(tempearture=3, power=.5, eps=1e-3), dict(bias=False))]
CONV = [('NormedConv2d', NormedConv2d, (8, 5, k), dict(norm_over_kernel=over, power=power), (2, 8, 5, 6))
        for k in (1, 3) for over in (False, True) for power in (1., .5)]
STANDARD = [('ConvWS2d', ConvWS2d, (64, 32, k), {}, (2, 64, 5, 6)) for k in (1, 3)]


@pytest.mark.parametrize('name, ours, shape, options, size', LINEAR + CONV + STANDARD)
def test_same_answers_and_gradients(name, ours, shape, options, size):
    torch.manual_seed(0)
    mine, yours = ours(*shape, **options), theirs()[name](*shape, **options)
    assert list(mine.state_dict()) == list(yours.state_dict())
    with torch.no_grad():
        for p in mine.parameters(): p.normal_()
    yours.load_state_dict(mine.state_dict())
    x = torch.randn(size)
    assert torch.equal(mine(x), yours(x))
    grads = [torch.autograd.grad(layer(x).square().sum(), list(layer.parameters())) for layer in (mine, yours)]
    for a, b in zip(*grads): torch.testing.assert_close(a, b)
