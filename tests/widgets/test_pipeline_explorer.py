"The explorer of pipelines: it shows what the pipeline did, names who was dropped, and goes as far as the pipeline goes."
import numpy as np
import pytest
import torch

from learndet.core.samples import CLASSES, coco_file, samples_dir
from learndet.data.coco import CocoDataset
from learndet.data.transforms.cropping import Expand, MinIoURandomCrop, RandomCrop
from learndet.data.transforms.formatting import PackDetInputs
from learndet.data.transforms.geometric import Pad, RandomFlip, Resize
from learndet.data.transforms.loading import LoadAnnotations, LoadImageFromFile
from learndet.data.transforms.photometric import Normalize
from learndet.data.transforms.pipeline import Compose
from learndet.visualization.batch import objects_of
from learndet.visualization.pipeline_explorer import explore_pipeline, moved_box

DATASET = CocoDataset(ann_file='train.json', data_root=str(samples_dir()), data_prefix=dict(img='JPEGImages'))
STEPS = [LoadImageFromFile(), LoadAnnotations(), Resize(scale=(200, 160), keep_ratio=True), RandomFlip(.5), RandomCrop((100, 100)), PackDetInputs()]
INFO = DATASET.get_data_info(4)


def test_it_shows_what_the_pipeline_gives_for_every_seed():
    w = explore_pipeline(STEPS, INFO, CLASSES)
    for seed in range(5):
        w.change(seed=seed, step=6)
        expected = Compose(STEPS)(dict(INFO, rng=np.random.default_rng(seed)))
        if expected is None:
            assert w.trace.results[-1] is None and len(w.array('boxes')) == 0
            continue
        real, ignored = objects_of(expected)
        assert np.allclose(w.array('boxes'), torch.cat([real.bboxes, ignored.bboxes])) and w.array('label')[0].tolist() == torch.cat([real.labels, ignored.labels]).tolist()
        assert w.array('state')[0].tolist() == [0] * len(real) + [1] * len(ignored)
        assert w.picture.shape[:2] == tuple(expected['inputs'].shape[1:]) and np.array_equal(w.picture[..., ::-1], expected['inputs'].permute(1, 2, 0).numpy())
        w.change(step=5)
        assert len(w.gone) == len(w.who[4]) - len(w.who[5]) and (w.array('state')[0] == 2).sum() == len(w.gone)


def test_who_was_dropped_is_known_by_place():
    w = explore_pipeline([*STEPS[:4], MinIoURandomCrop()], INFO, CLASSES)
    for seed in range(8):
        w.change(seed=seed, step=5)
        if w.trace.results[-1] is None: continue
        before = dict(zip(w.who[4], w.boxes_of(w.trace.results[4])[1].tolist()))
        after = dict(zip(w.who[5], w.boxes_of(w.trace.results[5])[1].tolist()))
        assert after.items() <= before.items()
        inside = (w.array('boxes')[w.array('state')[0] == 2] > 0).all(1) & (w.array('boxes')[w.array('state')[0] == 2][:, 2:] < [w.size[1], w.size[0]]).all(1)
        assert not inside.any()                                                 # a dropped box does not lie within what was kept


def test_boxes_follow_homographies_through_a_whole_pipeline():
    steps = [LoadImageFromFile(), LoadAnnotations(), Expand(mean=(0, 0, 0), to_rgb=False), Resize(scale=(300, 200), keep_ratio=False), RandomFlip(1., 'diagonal')]
    trace = explore_pipeline(steps, INFO, CLASSES).trace
    before, after = (objects_of(trace.results[k])[0].bboxes for k in (2, 5))
    moved = torch.stack([moved_box(b, trace.results[5]['homography_matrix']) for b in before])
    assert torch.allclose(moved, after.double(), atol=1e-2)


def test_normalised_pictures_look_as_they_were_taken():
    class Normaliser: mean, std, swap_channels = torch.tensor([123.7, 116.3, 103.5]).view(3, 1, 1), torch.tensor([58.4, 57.1, 57.4]).view(3, 1, 1), True
    w = explore_pipeline([*STEPS[:2], Pad(size_divisor=32), Normalize([123.7, 116.3, 103.5], [58.4, 57.1, 57.4]), PackDetInputs()], INFO, CLASSES, preprocessor=Normaliser)
    assert not w.message and w.picture.dtype == np.uint8
    w.change(step=2)
    loaded = w.picture.copy()
    w.change(step=5)
    assert np.abs(w.picture[:loaded.shape[0], :loaded.shape[1]].astype(int) - loaded).max() <= 1


def broken(results): raise RuntimeError('no luck today')


@pytest.mark.parametrize('at', [0, 2, 5])
def test_a_pipeline_that_breaks_shows_what_it_has(at):
    w = explore_pipeline([*STEPS[:at], broken, *STEPS[at:]], INFO, CLASSES)
    assert len(w.trace.steps) == at and w.message == f'step {at + 1}, function: RuntimeError: no luck today' and w.panels[0]['alert'] == w.message
    w.change(step=at)
    assert w.message == ''
    w.to_png()


def test_rolling_again_and_clicks():
    w = explore_pipeline(STEPS, INFO, CLASSES)
    w.roll(); w.roll()
    assert w.traced == 2 and 'seed 2' in w.panels[0]['title']
    w.clicked = ['Steps', 2, 0, 1]
    assert w.params['step'] == 3 and w.panels[-1]['mark'] == 2
    assert [s[0] for s in w.bake()['scenes']][:2] == ['after 6: PackDetInputs', 'before the first step']
    assert coco_file().exists()


def test_page_steps_through_the_pipeline(open_widget):
    widget = explore_pipeline(STEPS, INFO, CLASSES, seed=1)
    w, sizes = open_widget(widget), []
    for _ in STEPS:
        w.root.locator('[data-scene=next]').click(); w.settle()
        sizes.append((w.js('w.data().n'), w.get('size')))
    assert [n for n, _ in sizes][:3] == [0, 0, len(widget.who[2])] and sizes[5][1] == list(widget.trace.results[5]['img_shape'])
    assert sizes[3][1] == list(widget.trace.results[3]['img_shape']) and w.panel('Steps').locator('tr.mark').text_content().startswith('5 RandomCrop')
