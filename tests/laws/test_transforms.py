"Laws that every transform keeps: boxes stay on their objects, columns agree, a seed is a sample, nothing is written into."
import copy

import numpy as np
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from learndet.data.transforms.cropping import Expand, MinIoURandomCrop, RandomCrop
from learndet.data.transforms.formatting import PackDetInputs
from learndet.data.transforms.geometric import FixShapeResize, Pad, RandomChoiceResize, RandomFlip, RandomResize, Resize
from learndet.data.transforms.loading import FilterAnnotations, LoadAnnotations, LoadImageFromNDArray
from learndet.data.transforms.photometric import PhotoMetricDistortion
from learndet.data.transforms.pipeline import BaseTransform, Compose, RandomApply, RandomChoice, same_value

quick = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
COLOURS = np.array([[250, 10, 10], [10, 250, 10], [10, 10, 250], [240, 240, 10]], np.uint8)     # BGR, one an object
NEAREST = dict(interpolation='nearest')                 # keeps colours what they are, so that pixels can be found again

@st.composite
def samples(draw, min_objects=0, max_objects=4, masks=st.booleans()):
    "A grey picture with up to four squares of different colours that do not overlap; object k has label k."
    H, W = draw(st.integers(24, 70)), draw(st.integers(48, 90))
    img, instances = np.full((H, W, 3), 120, np.uint8), []
    for k in range(draw(st.integers(min_objects, max_objects))):
        w, h = draw(st.integers(3, W // 4 - 1)), draw(st.integers(3, H - 1))
        x, y = k * (W // 4) + draw(st.integers(0, W // 4 - w)), draw(st.integers(0, H - h))
        img[y:y + h, x:x + w] = COLOURS[k]
        instances.append(dict(bbox=[x, y, x + w, y + h], bbox_label=k, ignore_flag=draw(st.integers(0, 1)),
                              mask=[[x, y, x + w, y, x + w, y + h, x, y + h]]))
    results = dict(img=img, img_path='squares.png', instances=instances, rng=np.random.default_rng(draw(st.integers(0, 2 ** 32))))
    load = LoadAnnotations(with_mask=draw(masks), poly2mask=draw(st.booleans()))
    results = load(LoadImageFromNDArray()(results))
    return dict(results, gt_seg_map=(img != 120).any(-1).astype(np.uint8))

GEOMETRY = [
    Resize((50, 40), **NEAREST), Resize((133, 80), keep_ratio=True, **NEAREST), Resize(scale_factor=(.6, 1.7), **NEAREST),
    RandomResize([(60, 30), (120, 70)], keep_ratio=True, **NEAREST), RandomResize((64, 64), ratio_range=(.5, 2.), **NEAREST),
    RandomChoiceResize([(40, 40), (90, 50)], **NEAREST), FixShapeResize(64, 48, keep_ratio=True, **NEAREST), FixShapeResize(32, 64, **NEAREST),
    RandomFlip(1.), RandomFlip(1., 'vertical'), RandomFlip([.3, .3, .3], ['horizontal', 'vertical', 'diagonal']),
    Pad(size_divisor=32), Pad(pad_to_square=True, size_divisor=7, pad_val=dict(img=(1, 2, 3)))]
CROPS = [
    RandomCrop((30, 20)), RandomCrop((20, 60), 'absolute_range', True), RandomCrop((.5, .7), 'relative', True), RandomCrop((.3, .3), 'relative_range'),
    MinIoURandomCrop(), MinIoURandomCrop(min_ious=(), min_crop_size=.1), Expand(mean=(3, 2, 1), prob=1., ratio_range=(1, 2))]
COLOUR = [PhotoMetricDistortion()]
OTHERS = [FilterAnnotations((4, 4)), RandomApply([RandomFlip(1.)], .5), RandomChoice([Pad(size_divisor=16), [RandomFlip(1.), Expand(prob=1.)]])]
ALL = GEOMETRY + CROPS + COLOUR + OTHERS

def run(transform, results): return transform(copy.deepcopy(results))
def columns(results): return {k: results[k] for k in ('gt_bboxes', 'gt_bboxes_labels', 'gt_ignore_flags', 'gt_masks') if k in results}

def check_sample(out):
    "Shapes, types, counts and limits of a sample after any step."
    H, W = out['img_shape']
    assert out['img'].shape == (H, W, 3) and out['img'].dtype == np.uint8 and min(H, W) > 0 and out['gt_seg_map'].shape == (H, W)
    assert out['gt_bboxes'].shape == (len(out['gt_bboxes']), 4) and out['gt_bboxes'].dtype == torch.float32
    assert out['gt_bboxes_labels'].dtype == torch.int64 and out['gt_ignore_flags'].dtype == torch.bool
    assert len({len(v) for v in columns(out).values()}) == 1
    x1, y1, x2, y2 = out['gt_bboxes'].unbind(-1)
    assert (x1 >= 0).all() and (y1 >= 0).all() and (x2 <= W + 1e-3).all() and (y2 <= H + 1e-3).all()
    assert (x2 > x1).all() and (y2 > y1).all()
    if 'gt_masks' in out: assert (out['gt_masks'].height, out['gt_masks'].width) == (H, W)

@quick
@given(samples(), st.lists(st.sampled_from(ALL), min_size=1, max_size=3))
def test_columns_agree_boxes_lie_inside_and_have_a_size(results, steps):
    out = run(Compose(steps), results)
    if out is not None: check_sample(out)

@quick
@given(samples(min_objects=1), st.lists(st.sampled_from(GEOMETRY + CROPS), min_size=1, max_size=2))
def test_a_box_still_hits_its_object(results, steps):
    "The coloured square is searched for in the pixels; its sides are where the box says, up to the rounding of each resize."
    out = run(Compose(steps), results)
    if out is None: return
    tolerance = 1.01 * len(steps) * max(1, *out['scale_factor']) if 'scale_factor' in out else 1e-3
    for label, box in zip(out['gt_bboxes_labels'].tolist(), out['gt_bboxes'].tolist()):
        y, x = np.nonzero((out['img'] == COLOURS[label]).all(-1))
        if len(x) == 0:                                             # a sliver that no pixel centre lies in
            assert min(box[2] - box[0], box[3] - box[1]) <= tolerance
            continue
        found = np.array([x.min(), y.min(), x.max() + 1, y.max() + 1])
        assert np.abs(found - box).max() <= tolerance, (found, box, steps)

@quick
@given(samples(min_objects=1), st.lists(st.sampled_from(GEOMETRY + CROPS), min_size=1, max_size=4))
def test_homography_takes_file_boxes_to_sample_boxes(results, steps):
    "The matrix alone finds every box that is left: map its corners, cut at the border."
    out = run(Compose(steps), results)
    if out is None: return
    M, (H, W) = out.get('homography_matrix', np.eye(3)), out['img_shape']
    labels = results['gt_bboxes_labels'].tolist()
    crops = sum(isinstance(s, RandomCrop | MinIoURandomCrop) for s in steps)
    for label, box in zip(out['gt_bboxes_labels'].tolist(), out['gt_bboxes'].numpy()):
        x1, y1, x2, y2 = results['gt_bboxes'][labels.index(label)].tolist()
        p = (M @ np.array([[x1, x2], [y1, y2], [1, 1]]))[:2]
        mapped = np.clip([p[0].min(), p[1].min(), p[0].max(), p[1].max()], 0, [W, H, W, H])
        if crops == 0 or not any(isinstance(s, Pad | Expand | FixShapeResize) for s in steps): np.testing.assert_allclose(mapped, box, atol=2e-2)
        else: assert (box[:2] >= mapped[:2] - 2e-2).all() and (box[2:] <= mapped[2:] + 2e-2).all()      # cut by a crop, then given room

@quick
@given(samples(min_objects=1, masks=st.just(True)), st.lists(st.sampled_from(GEOMETRY + CROPS), min_size=1, max_size=2))
def test_a_mask_fills_its_box(results, steps):
    "The squares fill their boxes, so the masks' own boxes are the boxes."
    out = run(Compose(steps), results)
    if out is None: return
    found, boxes = out['gt_masks'].get_bboxes().numpy(), out['gt_bboxes'].numpy()
    tolerance = 1.01 * len(steps) * max(1, *out['scale_factor']) if 'scale_factor' in out else .01
    for f, b in zip(found, boxes):
        if f.any(): assert np.abs(f - b).max() <= tolerance, (f, b, steps)
        else: assert min(b[2] - b[0], b[3] - b[1]) <= tolerance

@quick
@given(samples(), st.lists(st.sampled_from(ALL), min_size=1, max_size=3))
def test_the_same_seed_is_the_same_sample_and_nothing_is_written_into(results, steps):
    kept = {k: copy.deepcopy(v) for k, v in results.items() if k != 'rng'}
    seed = copy.deepcopy(results['rng'])
    np.random.seed(0); torch.manual_seed(0)
    a = Compose(steps)(dict(results, rng=copy.deepcopy(seed)))                                          # a shallow copy: arrays are shared
    assert same_value({k: results[k] for k in kept}, kept)
    np.random.seed(1); torch.manual_seed(1)                                                             # global generators do not matter
    b = Compose(steps)(dict(results, rng=copy.deepcopy(seed)))
    assert (a is None) == (b is None)
    if a is not None: assert same_value({k: v for k, v in a.items() if k != 'rng'}, {k: v for k, v in b.items() if k != 'rng'})

@quick
@given(samples(max_objects=0), st.lists(st.sampled_from(ALL), min_size=1, max_size=3))
def test_a_picture_without_objects_goes_through_everything(results, steps):
    out = run(Compose(steps), results)
    assert out is not None                              # nothing was lost, so nothing is rejected
    check_sample(out)
    assert out['gt_bboxes'].shape == (0, 4) and out['gt_bboxes_labels'].shape == (0,)
    packed = PackDetInputs()(out)
    assert packed['inputs'].shape == (3, *out['img_shape']) and packed['data_samples'].gt_instances.bboxes.shape == (0, 4)

@quick
@given(samples(), st.sampled_from(['horizontal', 'vertical', 'diagonal']), st.integers(1, 3))
def test_a_flip_undoes_itself(results, direction, pairs):
    out = run(Compose([RandomFlip(1., direction)] * 2 * pairs), results)
    assert np.array_equal(out['img'], results['img']) and torch.equal(out['gt_bboxes'], results['gt_bboxes'])
    assert out['flip'] is False and out['flip_direction'] is None
    assert np.allclose(out['homography_matrix'], np.eye(3))

@quick
@given(samples(), st.integers(10, 200), st.integers(10, 200))
def test_resize_keeps_within_its_bounds_and_near_the_ratio(results, a, b):
    out = run(Resize((a, b), keep_ratio=True), results)
    (H, W), (h, w) = out['img_shape'], results['img_shape']
    assert max(H, W) <= max(a, b) and min(H, W) <= max(min(a, b), 1)
    assert max(H, W) == max(a, b) or min(H, W) == min(a, b)                                             # one bound is met
    assert np.allclose(out['scale_factor'], (W / w, H / h))

@quick
@given(samples(), st.sampled_from(['absolute', 'absolute_range', 'relative', 'relative_range']), st.booleans())
def test_a_crop_rejects_only_what_it_emptied(results, crop_type, allowed):
    size = (20, 30) if crop_type.startswith('absolute') else (.3, .4)
    out = run(RandomCrop(size, crop_type, allowed), results)
    if out is None: assert not allowed and len(results['gt_bboxes']) > 0
    elif not allowed: assert len(out['gt_bboxes']) > 0 or len(results['gt_bboxes']) == 0

@quick
@given(samples(min_objects=1))
def test_masks_give_the_same_boxes_as_cutting_for_squares(results):
    if 'gt_masks' not in results: return
    a, b = run(RandomCrop((30, 20), allow_negative_crop=True), results), run(RandomCrop((30, 20), allow_negative_crop=True, recompute_bbox=True), results)
    assert torch.allclose(a['gt_bboxes'], b['gt_bboxes'], atol=1e-4)

@quick
@given(samples(), st.lists(st.sampled_from(ALL), min_size=1, max_size=3))
def test_packing_keeps_every_object_once(results, steps):
    out = run(Compose(steps), results)
    if out is None: return
    sample = PackDetInputs()(out)['data_samples']
    assert len(sample.gt_instances) == int((~out['gt_ignore_flags']).sum()) and len(sample.ignored_instances) == int(out['gt_ignore_flags'].sum())
    assert torch.equal(sample.gt_instances.bboxes, out['gt_bboxes'][~out['gt_ignore_flags']])

def test_every_transform_prints_itself_as_a_call():
    for t in ALL: assert repr(t).startswith(type(t).__name__ + '(') and isinstance(t, BaseTransform)
