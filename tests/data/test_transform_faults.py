"Bad pictures, bad arguments, and the messages that people get."
import io
import pickle

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from learndet.core.registry import TRANSFORMS
from learndet.data.transforms.cropping import Expand, MinIoURandomCrop, RandomCrop
from learndet.data.transforms.formatting import PackDetInputs
from learndet.data.transforms.geometric import FixShapeResize, Pad, RandomChoiceResize, RandomFlip, RandomResize, Resize
from learndet.data.transforms.loading import (CV2_FLAGS, FilterAnnotations, LoadAnnotations, LoadEmptyAnnotations, LoadImageFromFile,
                                              LoadImageFromNDArray, decode_image, scene_results)
from learndet.data.transforms.photometric import Normalize, PhotoMetricDistortion
from learndet.data.transforms.pipeline import BaseTransform, Compose, RandomApply, TransformError, rng_of

rng = np.random.default_rng(0)
PICTURE = cv2.GaussianBlur(rng.integers(0, 256, (40, 56, 3), dtype=np.uint8), (7, 7), 0)            # RGB

def encoded(kind, picture=PICTURE, **args):
    Image.fromarray(picture).save(out := io.BytesIO(), kind, **args)
    return out.getvalue()

JPEG, PNG, WEBP = encoded('JPEG'), encoded('PNG'), encoded('WEBP', lossless=True)

# ---- files -------------------------------------------------------------------------------------------------------------------

def test_missing_file_offers_another_case_or_extension(tmp_path):
    (tmp_path / 'Street_001.JPG').write_bytes(JPEG)
    with pytest.raises(FileNotFoundError, match="nearest name there is 'Street_001.JPG'"): LoadImageFromFile()(dict(img_path=tmp_path / 'street_001.jpg'))
    with pytest.raises(FileNotFoundError, match='its folder .*imgs does not exist'): LoadImageFromFile()(dict(img_path=tmp_path / 'imgs' / 'a.jpg'))
    with pytest.raises(IsADirectoryError, match='is a folder'): LoadImageFromFile()(dict(img_path=tmp_path))

@pytest.mark.parametrize('data, says', [
    (b'', 'empty'), (b'<!DOCTYPE html><p>no', 'web page'), (b'<html>', 'web page'), (b'{"a": 1}', 'JSON'), (b'PK\3\4zip', 'zip archive'),
    (b'%PDF-1.4', 'PDF'), (b'version https://git-lfs.github.com/spec/v1', 'git lfs pull'), (b'hello', 'text'), (b'\0\1\2\3', 'unknown data'),
    (b'\0\0\0\x18ftypheic', 'pillow-heif'), (JPEG[:-2], 'end is missing'), (JPEG[:200], 'JPEG'), (PNG[:-12], 'end is missing'),
    (WEBP[:-30], 'end is missing'), (b'GIF89a', 'GIF'), (b'BM1234', 'BMP'), (b'II*\0', 'TIFF')])
def test_what_is_no_picture_is_named(tmp_path, data, says):
    (tmp_path / 'x.jpg').write_bytes(data)
    with pytest.raises(ValueError, match=says) as e: LoadImageFromFile()(dict(img_path=str(tmp_path / 'x.jpg')))
    assert 'x.jpg' in str(e.value)
    assert (tmp_path / 'x.jpg').read_bytes() == data                                                # never touched
    assert LoadImageFromFile(ignore_empty=True)(dict(img_path=str(tmp_path / 'x.jpg'))) is None

@settings(max_examples=40, deadline=None)
@given(st.sampled_from([JPEG, PNG, WEBP]), st.data())
def test_a_cut_or_scrambled_picture_raises_a_value_error_or_decodes(data, draw):
    cut = draw.draw(st.integers(0, len(data)))
    at, junk = draw.draw(st.integers(0, len(data))), draw.draw(st.binary(max_size=6))
    for broken in (data[:cut], data[:at] + junk + data[at + len(junk):]):
        for backend in ('cv2', 'pillow'):
            try: img = decode_image(broken, imdecode_backend=backend)
            except ValueError: continue
            assert img.ndim == 3 and img.shape[2] == 3 and img.dtype == np.uint8

@pytest.mark.parametrize('name', ['a b.png', 'ü-日本.png', '100%.png', 'x' * 200 + '.png', "quote'.png", 'png.jpg'])
def test_any_file_name(tmp_path, name):
    (tmp_path / name).write_bytes(PNG)
    assert np.array_equal(LoadImageFromFile()(dict(img_path=str(tmp_path / name)))['img'][..., ::-1], PICTURE)

@pytest.mark.parametrize('orientation', range(1, 9))
@pytest.mark.parametrize('kind', ['JPEG', 'PNG', 'WEBP', 'TIFF'])
def test_exif_orientation_turns_the_picture_as_a_viewer_does(orientation, kind):
    back = {1: lambda a: a, 2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud, 5: lambda a: a.swapaxes(0, 1),
            6: np.rot90, 7: lambda a: np.rot90(a, 2).swapaxes(0, 1), 8: lambda a: np.rot90(a, -1)}[orientation]
    exif = Image.Exif(); exif[0x0112] = orientation
    data = encoded(kind, np.ascontiguousarray(back(PICTURE)), exif=exif, **(dict(lossless=True) if kind == 'WEBP' else {}))
    for backend in ('cv2', 'pillow'):
        img = decode_image(data, imdecode_backend=backend)[..., ::-1]
        assert img.shape == PICTURE.shape
        assert np.abs(img.astype(int) - PICTURE).mean() < (8 if kind == 'JPEG' else .1), backend

def test_transparent_palette_and_grey_alpha_are_flattened():
    grey_alpha = Image.merge('LA', [Image.new('L', (8, 6), 40), Image.new('L', (8, 6), 0)])
    palette = Image.fromarray(PICTURE).quantize(8)
    for img, args in ((grey_alpha, {}), (palette, dict(transparency=bytes(8)))):
        img.save(out := io.BytesIO(), 'PNG', **args)
        assert (decode_image(out.getvalue()) == 255).all() and (decode_image(out.getvalue(), alpha_over=(1, 2, 3)) == [3, 2, 1]).all()

def test_sixteen_bits_keep_their_upper_half_and_floats_are_refused():
    deep = np.arange(40 * 56, dtype=np.uint16).reshape(40, 56) * 29
    with pytest.warns(UserWarning, match='value // 256'): a = decode_image(cv2.imencode('.png', deep)[1].tobytes())
    assert np.array_equal(a, np.repeat((deep >> 8).astype(np.uint8)[..., None], 3, 2))
    assert np.array_equal(decode_image(cv2.imencode('.png', deep)[1].tobytes(), 'unchanged'), deep)
    with pytest.raises(ValueError, match='32-bit'): decode_image(cv2.imencode('.tiff', deep.astype(np.float32))[1].tobytes())

def test_a_film_gives_its_first_frame():
    frames = [Image.new('RGB', (8, 8), c) for c in ('red', 'lime')]
    frames[0].save(out := io.BytesIO(), 'GIF', save_all=True, append_images=frames[1:])
    with pytest.warns(UserWarning, match='first of 2 frames'): assert decode_image(out.getvalue())[0, 0].tolist() == [0, 0, 255]

@pytest.mark.parametrize('color_type', CV2_FLAGS)
def test_both_decoders_give_the_same_size_and_kind(color_type):
    for data in (JPEG, PNG):
        a, b = (decode_image(data, color_type, backend) for backend in ('cv2', 'pillow'))
        assert a.shape == b.shape and a.dtype == b.dtype and np.abs(a.astype(int) - b).max() <= 2

def test_wrong_size_in_the_annotation(tmp_path):
    (tmp_path / 'a.png').write_bytes(PNG)
    info = dict(img_path=str(tmp_path / 'a.png'))
    assert LoadImageFromFile()(dict(info, height=40, width=56))['img_shape'] == (40, 56)
    assert LoadImageFromFile()(dict(info, height=0, width=0))['img_shape'] == (40, 56)              # 0: nobody said
    with pytest.raises(ValueError, match='EXIF'): LoadImageFromFile()(dict(info, height=56, width=40))
    with pytest.raises(ValueError, match='resized after'): LoadImageFromFile()(dict(info, height=400, width=560))

# ---- pipelines ---------------------------------------------------------------------------------------------------------------

class OneBad(Dataset):
    pipeline = Compose([lambda r: r, LoadImageFromFile()])
    def __len__(self): return 1
    def __getitem__(self, i): return self.pipeline(dict(img_path='nowhere.jpg', img_id=3))

def test_the_error_crosses_worker_processes_with_its_message():
    with pytest.raises(TransformError, match="transform 2 of 2, LoadImageFromFile, failed on img_path='nowhere.jpg', img_id=3: FileNotFoundError"):
        next(iter(DataLoader(OneBad(), num_workers=1, collate_fn=list)))

def test_the_cause_is_kept():
    with pytest.raises(TransformError) as e: OneBad()[0]
    assert isinstance(e.value.__cause__, FileNotFoundError)

def test_keyboard_interrupt_is_not_wrapped():
    def stop(results): raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt): Compose([stop])({})

PIPELINE = [LoadImageFromNDArray(), LoadAnnotations(with_mask=True), PhotoMetricDistortion(), Expand(mean=[1, 2, 3]), MinIoURandomCrop(), RandomResize([(64, 32), (64, 64)]),
            RandomChoiceResize([(64, 64)], keep_ratio=True), RandomFlip(), RandomCrop((32, 32)), FixShapeResize(64, 64), Pad(size_divisor=32), RandomApply([Pad(pad_to_square=True)]),
            FilterAnnotations(), PackDetInputs()]

def test_pipelines_travel_to_spawned_workers():
    again = pickle.loads(pickle.dumps(Compose(PIPELINE)))
    for seed in range(3):
        a, b = (p({**scene_results(seed), 'rng': np.random.default_rng(seed)}) for p in (Compose(PIPELINE), again))
        assert (a is None) == (b is None)
        if a is not None: assert torch.equal(a['inputs'], b['inputs']) and torch.equal(a['data_samples'].gt_instances.bboxes, b['data_samples'].gt_instances.bboxes)

def test_every_name_of_an_mmdetection_pipeline_builds():
    cfgs = [dict(type='LoadImageFromFile', backend_args=None), dict(type='LoadAnnotations', with_bbox=True, with_mask=True, poly2mask=False),
            dict(type='Expand', mean=[123.675, 116.28, 103.53], to_rgb=True, ratio_range=(1, 4)),
            dict(type='MinIoURandomCrop', min_ious=(0.1, 0.3, 0.5, 0.7, 0.9), min_crop_size=0.3),
            dict(type='Resize', scale=(300, 300), keep_ratio=False), dict(type='RandomFlip', prob=0.5),
            dict(type='PhotoMetricDistortion', brightness_delta=32, contrast_range=(0.5, 1.5), saturation_range=(0.5, 1.5), hue_delta=18),
            dict(type='RandomChoice', transforms=[[dict(type='RandomChoiceResize', scales=[(480, 1333), (512, 1333)], keep_ratio=True)],
                 [dict(type='RandomChoiceResize', scales=[(400, 4200)], keep_ratio=True), dict(type='RandomCrop', crop_type='absolute_range', crop_size=(384, 600), allow_negative_crop=True)]]),
            dict(type='RandomResize', scale=(1024, 1024), ratio_range=(0.1, 2.0), resize_type='Resize', keep_ratio=True),
            dict(type='Pad', size=(640, 640), pad_val=dict(img=(114, 114, 114))), dict(type='FilterAnnotations', min_gt_bbox_wh=(1e-2, 1e-2)),
            dict(type='LoadEmptyAnnotations'), dict(type='FixShapeResize', width=512, height=512, keep_ratio=True),
            dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'flip', 'flip_direction', 'homography_matrix'))]
    for cfg in cfgs: assert isinstance(TRANSFORMS.build(cfg), BaseTransform)

@pytest.mark.parametrize('make, says', [
    (lambda: Resize(scale=(1333, 800), scale_factor=2.), 'either scale or scale_factor'), (lambda: Resize(scale=(1, 2, 3)), r'\(w, h\); got'),
    (lambda: Resize(scale=(10, 10), interpolation='cubic'), 'interpolation is one of'), (lambda: Resize(scale=(10, 10), backend='pillow'), "backend is 'cv2'"),
    (lambda: RandomResize([(1, 2), (3, 4), (5, 6)]), 'give two scales'), (lambda: RandomResize((9, 9), (1, 2), resize_type='Risize'), 'resize_type is a class or one of'),
    (lambda: RandomFlip(1.5), 'sum 1 at most'), (lambda: Pad(size=(9, 9), size_divisor=3), 'Pad needs'), (lambda: RandomCrop((0, 5)), 'positive whole numbers'),
    (lambda: RandomCrop((5, 5), 'abs'), 'crop_type is one of'), (lambda: RandomCrop((9, 5), 'absolute_range'), 'smallest, largest'),
    (lambda: MinIoURandomCrop(min_crop_size=0), 'share of the picture'), (lambda: LoadImageFromFile(color_type='colour'), 'color_type is one of'),
    (lambda: LoadImageFromFile(imdecode_backend='turbojpeg'), 'imdecode_backend is one of'), (lambda: LoadAnnotations(box_type='rbox'), 'hbox'),
    (lambda: FilterAnnotations(by_box=False), 'looks at nothing'), (lambda: Normalize([1], [1, 2]), 'as many positive std')])
def test_bad_arguments_are_refused_when_the_pipeline_is_made(make, says):
    with pytest.raises(ValueError, match=says): make()

def test_rng_is_asked_for():
    with pytest.raises(KeyError, match='default_rng'): rng_of({})
    with pytest.raises(KeyError, match='it is a int'): rng_of(dict(rng=3))

def test_empty_annotations_do_not_need_instances():
    out = Compose([LoadImageFromNDArray(), LoadEmptyAnnotations(with_mask=True, with_seg=True)])(dict(img=PICTURE))
    assert out['gt_bboxes'].shape == (0, 4) and len(out['gt_masks']) == 0 and (out['gt_seg_map'] == 255).all()

def test_label_maps_keep_their_palette_numbers(tmp_path):
    labels = Image.fromarray(np.arange(12, dtype=np.uint8).reshape(3, 4)).convert('L')
    palette = Image.fromarray(np.asarray(labels)).convert('P'); palette.putdata(list(range(12))); palette.save(tmp_path / 'labels.png')
    out = LoadAnnotations(False, False, with_seg=True)(dict(seg_map_path=tmp_path / 'labels.png'))
    assert out['gt_seg_map'].tolist() == np.arange(12).reshape(3, 4).tolist()
