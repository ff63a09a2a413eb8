"The same numbers as torchvision's transforms and as the data preprocessor; the street scenes of the published logs."
import numpy as np
import pytest
import torch

from learndet.data.preprocessor import DetDataPreprocessor
from learndet.data.samplers import pseudo_collate
from learndet.data.transforms.formatting import PackDetInputs
from learndet.data.transforms.geometric import Pad, RandomFlip, Resize, resize_image
from learndet.data.transforms.loading import scene_results
from learndet.data.transforms.photometric import Normalize, distort, distort_float
from learndet.data.transforms.pipeline import Compose

MEAN, STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]

@pytest.mark.parametrize('shape, resized, factors', [((375, 1242), (402, 1333), (1.0732689, 1.072)), ((370, 1224), (403, 1333), (1.0890523, 1.0891892))])
def test_street_scenes(shape, resized, factors):
    out = Compose([Resize((1333, 800), keep_ratio=True), Pad(size_divisor=32)])(dict(img=np.zeros((*shape, 3), np.uint8)))
    assert out['pad_shape'] == (416, 1344) and np.array_equal(np.float32(out['scale_factor']), np.float32(factors))
    assert Resize((1333, 800), keep_ratio=True)(dict(img=np.zeros((*shape, 3), np.uint8)))['img_shape'] == resized

def test_normalising_in_the_pipeline_or_on_the_device_gives_the_same_batch():
    sample = scene_results(1)
    v2 = Compose([Normalize(MEAN, STD, to_rgb=True), Pad(size_divisor=32), PackDetInputs()])(dict(sample))['inputs']
    prep = DetDataPreprocessor(MEAN, STD, bgr_to_rgb=True, pad_size_divisor=32)
    v3 = prep(pseudo_collate([PackDetInputs()(dict(sample))]))['inputs'][0]
    torch.testing.assert_close(v2, v3)

def test_boxes_as_torchvision():
    v2 = pytest.importorskip('torchvision.transforms.v2.functional')
    tv = pytest.importorskip('torchvision.tv_tensors')
    sample = scene_results(2)
    boxes = tv.BoundingBoxes(sample['gt_bboxes'], format='XYXY', canvas_size=(192, 256))
    out = Resize((300, 100))(dict(sample))
    torch.testing.assert_close(out['gt_bboxes'], torch.Tensor(v2.resize(boxes, [100, 300])))
    for direction, flip in (('horizontal', v2.horizontal_flip), ('vertical', v2.vertical_flip)):
        torch.testing.assert_close(RandomFlip(1., direction)(dict(sample))['gt_bboxes'], torch.Tensor(flip(boxes)))

def test_pixels_as_torchvision():
    v2 = pytest.importorskip('torchvision.transforms.v2.functional')
    img = scene_results(2)['img']
    chw = torch.from_numpy(img).permute(2, 0, 1)
    for size in ((250, 400), (100, 130)):
        ours, theirs = resize_image(img, size), v2.resize(chw, list(size), antialias=False).permute(1, 2, 0).numpy()
        assert np.abs(ours.astype(int) - theirs).max() <= 1
    assert np.array_equal(RandomFlip(1.)(dict(img=img, rng=np.random.default_rng(0)))['img'], v2.horizontal_flip(chw).permute(1, 2, 0).numpy())

def test_tables_are_close_to_floats_on_random_colours():
    rng = np.random.default_rng(0)
    img = rng.integers(60, 190, (32, 32, 3), dtype=np.uint8)
    for _ in range(30):
        change = dict(brightness=rng.uniform(-32, 32), contrast=rng.uniform(.5, 1.2), saturation=rng.uniform(.5, 1.2), hue=rng.uniform(-18, 18), channels=rng.permutation(3).tolist())
        off = distort(img, **change) - distort_float(img, **change).clip(0, 255)
        assert np.abs(off).mean() < 1.2 and np.abs(off.mean()) < .6, change
