"The preprocessor equals the slow arithmetic, touches nothing it should not, and says when numbers do not fit."
import warnings

import pytest
import torch

from learndet.data.preprocessor import NORM_PRESETS, DetDataPreprocessor, batch_shape
from learndet.structures.instance_data import DetDataSample


def pictures(*shapes, seed=0):
    g = torch.Generator().manual_seed(seed)
    return [torch.randint(0, 256, (3, *s), dtype=torch.uint8, generator=g) for s in shapes]


@pytest.mark.parametrize('name', NORM_PRESETS)
@pytest.mark.parametrize('channels_last', [False, True])
def test_each_picture_as_if_alone(name, channels_last):
    preset = NORM_PRESETS[name]
    images = pictures((30, 50), (64, 20), (7, 7))
    out = DetDataPreprocessor(**preset, pad_size_divisor=32, pad_value=3, channels_last=channels_last)(dict(inputs=images))['inputs']
    assert out.shape == (3, 3, 64, 64) and out.dtype == torch.float32
    for x, img in zip(out, images):
        img = (img.flip(0) if preset['bgr_to_rgb'] else img).float()
        h, w = img.shape[1:]
        assert torch.equal(x[:, :h, :w], (img - torch.tensor(preset['mean']).view(3, 1, 1)) / torch.tensor(preset['std']).view(3, 1, 1))
        assert (x[:, h:] == 3).all() and (x[:, :, w:] == 3).all()


@pytest.mark.parametrize('shape, padded', [((402, 1333), (416, 1344)), ((403, 1333), (416, 1344)), ((416, 1344), (416, 1344))])
def test_padding_of_the_manual(shape, padded):
    sample = DetDataSample(metainfo=dict(img_shape=shape))
    out = DetDataPreprocessor(**NORM_PRESETS['torchvision'], pad_size_divisor=32)(dict(inputs=pictures(shape), data_samples=[sample]))
    assert tuple(out['inputs'].shape[2:]) == sample.batch_input_shape == sample.pad_shape == padded


def test_channels_are_swapped_once():
    red_bgr = torch.tensor([0, 0, 255], dtype=torch.uint8).view(3, 1, 1)
    out = DetDataPreprocessor([0, 0, 0], [1, 1, 1], bgr_to_rgb=True)(dict(inputs=[red_bgr]))['inputs']
    assert out.flatten().tolist() == [255, 0, 0]


def test_buffers_follow_the_module_and_stay_out_of_checkpoints():
    p = DetDataPreprocessor(**NORM_PRESETS['ssd'])
    assert not p.state_dict() and {n for n, _ in p.named_buffers()} == {'mean', 'std'} and p.mean.shape == (3, 1, 1)


def test_inputs_are_not_changed():
    images = pictures((8, 9)); floats = [i.float() for i in images]
    for batch in (images, floats):
        before = [i.clone() for i in batch]
        DetDataPreprocessor(**NORM_PRESETS['torchvision'])(dict(inputs=batch))
        assert all(torch.equal(a, b) for a, b in zip(batch, before))


def test_buckets_bound_the_number_of_shapes():
    buckets = [(64, 64), (64, 128), (128, 128)]
    shapes = {batch_shape([(h, w)], 32, buckets) for h in range(1, 129, 7) for w in range(1, 129, 7)}
    assert shapes == set(buckets)
    assert batch_shape([(129, 5)], 32, buckets) == (160, 32)


@pytest.mark.parametrize('kwargs, fragment', [(dict(mean=[0]), 'come together'), (dict(mean=[0], std=[0]), 'cannot be zero'),
                                              (dict(bgr_to_rgb=True, rgb_to_bgr=True), 'same swap'),
                                              (dict(mean=[1, 2], std=[1, 1, 1]), 'mean and std are for the same channels'), (dict(mean=[], std=[]), 'same channels'),
                                              (dict(mean=[1, 2], std=[1, 1], bgr_to_rgb=True), 'are for 3 channels')])
def test_settings_that_cannot_be(kwargs, fragment):
    with pytest.raises(ValueError, match=fragment): DetDataPreprocessor(**kwargs)


@pytest.mark.parametrize('mean, std, channels', [([5], [2], 1), ([5], [2], 3), ([5], [2, 2, 2], 3), ([5, 5, 5], [2], 3), ([5] * 4, [2] * 4, 4), ([5, 5], [2, 2], 2)])
def test_any_number_of_channels_that_mean_and_std_agree_on(mean, std, channels):
    out = DetDataPreprocessor(mean, std)(dict(inputs=[torch.full((channels, 3, 3), 9, dtype=torch.uint8)]))['inputs']
    assert torch.equal(out, torch.full((1, channels, 3, 3), 2.))
    if max(len(mean), len(std)) > 1:
        with pytest.raises(ValueError, match='channels'): DetDataPreprocessor(mean, std)(dict(inputs=[torch.zeros(5, 3, 3, dtype=torch.uint8)]))


def test_channels_that_do_not_fit():
    with pytest.raises(ValueError, match=r'pictures of \[4\] channels'): DetDataPreprocessor(**NORM_PRESETS['ssd'])(dict(inputs=[torch.zeros(4, 3, 3)]))
    with pytest.raises(ValueError, match=r'pictures of \[1, 3\]'): DetDataPreprocessor()(dict(inputs=[torch.zeros(1, 3, 3), torch.zeros(3, 3, 3)]))


def test_numbers_of_other_pictures_are_noticed_once_and_in_training_only():
    wrong = [dict(mean=[.485, .456, .406], std=[.229, .224, .225]), NORM_PRESETS['torchvision']]
    batches = [pictures((20, 20)), [i / 255 for i in pictures((20, 20))]]
    for preset, images in zip(wrong, batches):
        p = DetDataPreprocessor(**preset)
        with warnings.catch_warnings():
            warnings.simplefilter('error')
            p(dict(inputs=images))
        with pytest.warns(UserWarning, match='the first batch has mean'): p(dict(inputs=images), training=True)
        with warnings.catch_warnings():
            warnings.simplefilter('error')
            p(dict(inputs=images), training=True)


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device')
def test_no_wait_for_the_device():
    images, p = pictures((60, 90), (90, 60)), DetDataPreprocessor(**NORM_PRESETS['torchvision'], pad_size_divisor=32).cuda()
    expected = DetDataPreprocessor(**NORM_PRESETS['torchvision'], pad_size_divisor=32)(dict(inputs=images))['inputs']
    p(dict(inputs=images), training=True)
    torch.cuda.set_sync_debug_mode('error')
    try: out = p(dict(inputs=images), training=True)['inputs']
    finally: torch.cuda.set_sync_debug_mode('default')
    assert torch.allclose(out.cpu(), expected, atol=1e-6)
