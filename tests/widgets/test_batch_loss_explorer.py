"A batch's loss, prior by prior: the library's own losses, adding up to what the head returns, picked by hand and read back."
import math

import pytest
import torch
from torch import nn

from learndet.core.samples import CLASSES, make_scene
from learndet.data.preprocessor import DetDataPreprocessor
from learndet.models.backbones.resnet import ResNet
from learndet.models.dense_heads.anchor_head import AnchorHead
from learndet.models.dense_heads.retina_head import RetinaHead
from learndet.models.dense_heads.retina_sepbn_head import RetinaSepBNHead
from learndet.models.dense_heads.rpn_head import RPNHead
from learndet.models.detectors.single_stage import SingleStageDetector
from learndet.models.necks.fpn import FPN
from learndet.structures.instance_data import DetDataSample, InstanceData
from learndet.task_modules.coders.delta_xywh_coder import DeltaXYWHBBoxCoder
from learndet.task_modules.losses.cross_entropy import CrossEntropyLoss
from learndet.task_modules.losses.focal import FocalLoss
from learndet.task_modules.losses.gradient_harmonizing import GHMC, GHMR
from learndet.task_modules.losses.iou_losses import CIoULoss, GIoULoss, IoULoss
from learndet.task_modules.losses.l1 import SmoothL1Loss
from learndet.task_modules.losses.more_box_losses import BalancedL1Loss
from learndet.task_modules.prior_generators.anchor_generator import AnchorGenerator
from learndet.visualization.loss_explorer import HEAT, BatchLossExplorer, batch_losses, explore_batch_losses, heat, prior_losses

STRIDES = [16, 32, 64]

def generator(): return AnchorGenerator(STRIDES, [.5, 1., 2.], [2.])

HEADS = {
    'RetinaHead': lambda: RetinaHead(3, 8, 1, feat_channels=8, anchor_generator=generator()),
    'weights': lambda: RetinaHead(3, 8, 1, feat_channels=8, anchor_generator=generator(), pos_weight=2., loss_cls=FocalLoss(loss_weight=.5), loss_bbox=SmoothL1Loss(.1, loss_weight=3.)),
    'RetinaSepBNHead': lambda: RetinaSepBNHead(3, 3, 8, 1, feat_channels=8, anchor_generator=generator()),
    'RPNHead': lambda: RPNHead(8, 8, anchor_generator=generator()),
    'softmax and GIoU': lambda: AnchorHead(3, 8, 8, anchor_generator=generator(), loss_cls=CrossEntropyLoss(), loss_bbox=GIoULoss(), reg_decoded_bbox=True),
    'sigmoid and CIoU': lambda: AnchorHead(3, 8, 8, anchor_generator=generator(), loss_cls=CrossEntropyLoss(use_sigmoid=True), loss_bbox=CIoULoss(), reg_decoded_bbox=True),
    'log IoU': lambda: AnchorHead(3, 8, 8, anchor_generator=generator(), loss_bbox=IoULoss(), reg_decoded_bbox=True),
    'GHM': lambda: RetinaHead(3, 8, 1, feat_channels=8, anchor_generator=generator(), loss_cls=GHMC(momentum=.75), loss_bbox=GHMR()),
    'balanced L1': lambda: AnchorHead(3, 8, 8, anchor_generator=generator(), loss_bbox=BalancedL1Loss(), bbox_coder=DeltaXYWHBBoxCoder(target_stds=(.1, .1, .2, .2))),
}


def detector(head, seed=0):
    torch.manual_seed(seed)
    preprocessor = DetDataPreprocessor([120.] * 3, [60.] * 3, pad_size_divisor=64)
    return SingleStageDetector(ResNet(18), FPN([64, 128, 256, 512], 8, 3, start_level=1), HEADS[head](), preprocessor)


def batch(objects=True):
    inputs, samples = [], []
    for scene in (make_scene(5), make_scene(2)):
        sample = DetDataSample(metainfo=dict(img_shape=scene.img.shape[:2], scale_factor=(1., 1.)))
        n = len(scene.bboxes) if objects else 0
        sample.gt_instances = InstanceData(bboxes=torch.tensor(scene.bboxes).float()[:n], labels=torch.as_tensor(scene.labels).long()[:n])
        samples.append(sample)
        inputs.append(torch.from_numpy(scene.img).permute(2, 0, 1).contiguous())
    return dict(inputs=inputs, data_samples=samples)


@pytest.mark.parametrize('head', HEADS)
def test_contributions_add_up_to_what_the_head_returns(head):
    model = detector(head).eval()
    torch.manual_seed(3)
    with torch.no_grad(): returned = model(**model.preprocess(batch()), mode='loss')
    torch.manual_seed(3)                                                                    # a random sampler draws the same again
    found, _ = batch_losses(model, batch())
    for term, name in (('classification', 'cls'), ('box', 'bbox')):
        whole = float(next(v for k, v in returned.items() if k.endswith(name)))
        assert whole > 0 and float(found.each(term).double().sum()) == pytest.approx(whole, rel=1e-5)
        assert (found.each(term)[~found.counted(term)] == 0).all()
        if head != 'GHM': assert found.divisors[term] == pytest.approx([float(found.targets.avg_factor)] * 3, rel=1e-5)
    for prior in found.each()[1].topk(3).indices.tolist() + [0]:
        rows = found.rows(1, prior)
        for term in found.terms:
            *parts, whole = [r for r in rows if r['term'] == term]
            assert whole['divided'] == pytest.approx(float(found.each(term)[1, prior]), rel=1e-4, abs=1e-9)
            if not math.isnan(parts[0]['loss']): assert sum(r['loss'] for r in parts) == pytest.approx(whole['loss'], rel=1e-4, abs=1e-7)


def test_a_loss_is_taken_apart_by_the_formula():
    "Focal loss and L1 of one prior, from the numbers that its row shows."
    found, _ = batch_losses(detector('RetinaHead'), batch())
    for prior in found.each()[0].topk(2).indices.tolist():
        rows = [r for r in found.rows(0, prior, list(CLASSES)) if r['part'] != 'all']
        for r in rows:
            p, t = r['predicted'], r['target']
            expected = abs(p - t) if r['term'] == 'box' else -.25 * (1 - p) ** 2 * math.log(p) if t else -.75 * p ** 2 * math.log(1 - p)
            assert r['loss'] == pytest.approx(expected * r['weight'], rel=1e-3, abs=1e-7)
            assert r['divided'] == pytest.approx(r['loss'] / float(found.targets.avg_factor), rel=1e-5, abs=1e-9)
        assert [r['part'] for r in rows if r['target'] and r['term'] == 'classification'] == [CLASSES[int(found.targets.labels[0, prior])]]


def test_the_model_stays_as_it_was():
    model = detector('GHM').train()
    before, state = {k: v.clone() for k, v in model.state_dict().items()}, torch.random.get_rng_state()
    batch_losses(model, batch())
    assert model.training and torch.equal(state, torch.random.get_rng_state()) and 'compare' not in vars(model.bbox_head)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_outputs_and_targets_will_do():
    found, _ = batch_losses(detector('RetinaHead'), batch())
    again = prior_losses(found.head, found.cls_scores, found.bbox_preds, found.priors.split(found.num_level_priors), found.targets)
    assert torch.equal(again.each(), found.each()) and again.returned == found.returned
    w = BatchLossExplorer(again)                                                            # without pictures, objects and names
    assert w.to_png() and w.top(3)[0]['loss'] == float(found.each()[0].max())


def test_a_batch_without_objects():
    found, _ = batch_losses(detector('RetinaHead'), batch(objects=False))
    assert float(found.each('box').sum()) == 0 and float(found.each('classification').double().sum()) == pytest.approx(found.returned['classification'], rel=1e-5)
    w = explore_batch_losses(detector('RetinaHead'), batch(objects=False))
    for term in ('classification', 'box', 'both'): w.change(term=term)
    assert not w.message and w.to_png()


def test_heads_that_cannot_be_taken_apart_are_named():
    with pytest.raises(ValueError, match='no head of Linear compares priors with targets .* second stages have no priors'): batch_losses(nn.Linear(2, 2), batch())
    with pytest.raises(ValueError, match='stage 1 of a model that compares 1 times'): batch_losses(detector('RPNHead'), batch(), stage=1)


def test_what_is_not_finite_is_said_and_comes_first():
    found, _ = batch_losses(detector('RetinaHead'), batch())
    found.cls_scores[0, 77, 2] = math.inf
    w = BatchLossExplorer(prior_losses(found.head, found.cls_scores, found.bbox_preds, found.priors.split(found.num_level_priors), found.targets))
    assert 'the first is prior 77' in w.message and w.top(1)[0]['prior'] == 77 and HEAT[w.array('state')[0, 77]]['name'] == 'not finite'
    w.change(image=1)
    assert not w.message


def test_steps_of_the_map():
    each = torch.tensor([0., .00005, .0005, .005, .05, .5, math.nan])
    assert heat(each / each[:6].sum(), torch.tensor([False] + [True] * 6)).tolist() == [0, 1, 2, 3, 4, 5, 6]


def test_handles_and_read_back():
    w = explore_batch_losses(detector('RetinaHead'), batch(), classes=CLASSES)
    best = w.top(1)[0]
    w.selected_prior = best['prior']
    assert w.panels[0]['title'] == f'Prior {best["prior"]}' and 'object' in w.panels[0]['text']
    table, rows = w.terms(), w.to_dataframe()
    assert table.divided[table.part == 'all'].sum() == pytest.approx(best['loss'], rel=1e-4)
    assert rows.classification.sum() + rows.box.sum() == pytest.approx(float(w.each.double().sum()), rel=1e-4)
    w.levels = [1]
    assert {r['level'] for r in w.top()} == {1} and {r[1] for p in w.panels if p['title'].startswith('Top') for r in p['rows']} == {1}
    w.clicked = ['Levels', 1, 0, 1]
    assert w.levels == [0, 1, 2]
    w.clicked = ['Levels', 1, 0, 2]
    assert w.levels == [1]
    w.clicked = ['Losses', 1, 0, 3]
    assert w.params['term'] == 'box'
    before = w.picture.copy()
    w.change(image=1)
    assert (w.picture.shape != before.shape or (w.picture != before).any()) and len(w.array('gts')) == len(make_scene(2).bboxes)
    with pytest.raises(ValueError, match='prior 99999'): w.terms(99999)
    kept = w.state_dict()
    assert kept['params'] == dict(term='box', image=1) and b'PNG' in w.to_png()[:8]


def test_page(open_widget):
    widget = explore_batch_losses(detector('RetinaHead'), batch(), classes=CLASSES)
    w, best = open_widget(widget), widget.top(1)[0]['prior']
    x, y = ((widget.found.priors[best, :2] + widget.found.priors[best, 2:]) / 2).tolist()
    w.root.locator('[data-panel^="Top contributors"]').locator('tbody tr').first.click(); w.settle()
    assert w.get('selected_prior') == best and widget.about(best).splitlines()[0] in w.panel('Why').text_content()
    w.root.focus(); w.page.keyboard.press('Escape'); w.settle()
    w.click(x, y)
    assert w.get('selected_prior') >= 0 and w.panel('Why').count() == 1
    said = [w.root.locator('.caption').text_content()]
    for _ in range(2):
        w.root.locator('[data-scene=next]').click(); w.settle()
        said.append(w.root.locator('.caption').text_content())
    assert ['both' in said[0], 'classification' in said[1], 'box' in said[2]] == [True] * 3
    states = w.js('[...w.data().state]')
    assert states.count(0) == int((~widget.found.counted('box')[0]).sum())                  # background has no box
