"The explorers of coders and losses: numbers of the library's coders and losses, dragged by hand, by key, and in Python."
import numpy as np
import pytest
import torch

from learndet.core.samples import make_scene
from learndet.structures.overlaps import bbox_overlaps
from learndet.task_modules.coders.delta_xywh_coder import DeltaXYWHBBoxCoder
from learndet.task_modules.coders.distance_point_coder import DistancePointBBoxCoder
from learndet.task_modules.coders.tblr_coder import TBLRBBoxCoder
from learndet.task_modules.coders.yolo_coder import YOLOBBoxCoder
from learndet.task_modules.losses.focal import FocalLoss
from learndet.visualization.coder_explorer import PLACES, coder_arguments, coder_input, explore_coder
from learndet.visualization.loss_explorer import LOSSES, STARTS, descend, explore_losses, focal_curves, loss_and_gradient, pull_arrows

IMG = make_scene(5).img
PRIOR, GT = torch.tensor([60., 50, 124, 114]), torch.tensor([80., 60, 190, 120])


def drag(w, *boxes): w.gts = torch.stack([torch.as_tensor(b).float() for b in boxes]).numpy().astype('<f4').tobytes()


@pytest.mark.parametrize('coder', [DeltaXYWHBBoxCoder(target_stds=(.1, .1, .2, .2)), DeltaXYWHBBoxCoder((.1, 0., 0., .2)), DistancePointBBoxCoder(), TBLRBBoxCoder()])
def test_numbers_are_the_coders_own_wherever_the_boxes_are(coder):
    w = explore_coder(coder, PRIOR, GT, IMG)
    for prior, gt in ((PRIOR, GT), (GT, PRIOR), (PRIOR + 7, GT * .5 + 20)):
        drag(w, prior, gt)
        start = coder_input(coder, prior[None])
        deltas = coder.encode(start, gt[None])
        assert not w.message and torch.allclose(torch.tensor(w.deltas), deltas[0]) and [r[1] for r in w.panels[0]['rows']] == pytest.approx(deltas[0].tolist(), abs=1e-3)
        for k, name in enumerate(w.delta_names):
            w.change(wrong=name, error=.25)
            off = deltas.clone()
            off[0, k] += .25
            decoded = coder.decode(start, off)
            assert np.allclose(w.array('boxes')[0], decoded[0], atol=1e-3) and f'object {bbox_overlaps(decoded, gt[None]).item():.3f}' in w.panels[1]['text']
        w.change(error=0.)
    assert coder_arguments(w.coder) == coder_arguments(coder)
    w.to_png()


def test_examples_and_back_to_what_was_dragged():
    w = explore_coder(DeltaXYWHBBoxCoder(), PRIOR, GT, IMG)
    drag(w, PRIOR + 5, GT)
    for name in PLACES: w.change(example=name)
    w.change(example='the same box')
    assert w.deltas == [0.] * 4
    w.change(example='twice as large')
    assert w.deltas == pytest.approx([0, 0, np.log(2), np.log(2)])
    w.change(example='as given')
    assert torch.equal(torch.tensor(w.array('gts')), torch.stack([PRIOR + 5, GT]))
    w.bake()
    assert torch.equal(torch.tensor(w.array('gts')), torch.stack([PRIOR + 5, GT]))


def test_limits_of_a_coder_are_told():
    w = explore_coder(DeltaXYWHBBoxCoder(), PRIOR, GT, IMG, max_shape=(100, 150))
    assert 'misses by 40.0 pixels' in w.panels[1]['text'] and w.array('boxes')[0].tolist()[2:] == [150, 100]
    w.change(clip_border=False)
    assert 'exact' in w.panels[1]['text']
    w.change(target_stds=[.1, .1, .1, 0.])
    assert 'target_stds are positive' in w.message
    with pytest.raises(TypeError): explore_coder(YOLOBBoxCoder(), PRIOR, GT)              # wants a stride as well


def test_values_and_gradients_are_the_losses_own():
    w = explore_losses(PRIOR, GT, IMG)
    for pred in (PRIOR, GT, PRIOR - 100, GT + torch.tensor([5., 5, -5, -5]), torch.tensor([80., 60, 80, 60])):
        drag(w, GT, pred)
        assert not w.message
        for name, loss in LOSSES.items():
            value, gradient = loss_and_gradient(loss, pred[None], GT[None])
            assert w.values[name] == float(value) and w.grads[name] == gradient[0].tolist() and gradient.isfinite().all()
    for name in LOSSES:
        w.change(loss=name)
        assert np.allclose(w.array('arrows'), pull_arrows(torch.tensor(w.pred), torch.tensor(w.grads[name])))
    w.pred = GT.tolist()                                                                              # moved from Python
    assert w.array('gts')[1].tolist() == GT.tolist() and all(abs(v) < 1e-6 for v in w.values.values())
    w.clicked = ['Losses', 0, 0, 1]
    assert w.params['loss'] == 'IoU'


@pytest.mark.parametrize('name', ['GIoU', 'DIoU', 'CIoU', 'L1'])
def test_following_a_pull_makes_the_loss_smaller(name):
    for start in ('as given', 'inside', 'around'):
        pred = STARTS[start](PRIOR, GT)[None]
        path = descend(LOSSES[name], pred, GT[None], 25, 1.)
        values = [float(LOSSES[name](p[None], GT[None])) for p in path]
        assert values[-1] < values[0] and path.shape == (26, 4) and max(np.diff(path.numpy(), axis=0).__abs__().max(1)) <= 1 + 1e-3


def test_focal_curves_are_those_of_the_focal_loss():
    p, curves = focal_curves(1.5, .3)
    loss = FocalLoss(gamma=1.5, alpha=.3, reduction='none')
    for k in (0, 20, 40):
        logit = torch.logit(torch.tensor([[p[k]]]))
        assert curves['focal, positive'][k] == pytest.approx(float(loss(logit, torch.tensor([0]))), rel=1e-4)
        assert curves['focal, negative'][k] == pytest.approx(float(loss(logit, torch.tensor([1]))), rel=1e-4)
        assert curves['cross entropy, negative'][k] == pytest.approx(-np.log(1 - p[k]), rel=1e-3)


def test_pages_stand_still_and_step_through_scenes(open_widget):
    w = open_widget(explore_coder(DeltaXYWHBBoxCoder(), PRIOR, GT, IMG))
    assert w.get('drag') == [] and w.control('error').is_disabled()
    first = w.panel('Targets').text_content()
    w.root.locator('[data-scene=next]').click(); w.settle()
    assert w.panel('Targets').text_content() != first and '0' in w.panel('Targets').text_content()
    before = w.js('[...w.data().gts].join()')
    w.root.focus()
    for key in (']', 'Alt+ArrowRight'): w.page.keyboard.press(key)
    w.settle()
    assert w.get('selected_gt') == 0 and w.js('[...w.data().gts].join()') == before


def test_losses_page(open_widget):
    widget = explore_losses(PRIOR, GT, IMG)
    w = open_widget(widget)
    assert w.panel('Losses').locator('tbody tr').count() == 5 and w.panel('Losses').locator('tr.mark').text_content().startswith('GIoU')
    assert w.js('w.data().arrows.length / 4') == len(widget.array('arrows')) > 0
    w.root.locator('[data-scene=next]').click(); w.settle()
    assert w.panel('The way of IoU').count() == 1 and w.js('w.data().arrows.length') == 0     # apart, and IoU does not pull
