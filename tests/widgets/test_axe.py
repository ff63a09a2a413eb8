"""Every exported page, and the report of the tour, is audited with axe-core (WCAG 2.x A and AA, and its best practices).

axe.min.js comes with the package axe-playwright-python; nothing is downloaded at run time.
"""
import numpy as np
import pytest
import torch
from torch import nn

from learndet.core.samples import CLASSES, make_scene
from learndet.data.preprocessor import DetDataPreprocessor
from learndet.data.transforms.cropping import RandomCrop
from learndet.data.transforms.loading import scene_results
from learndet.evaluation.average_precision import FlatPredictions, flat_ground_truth
from learndet.models.backbones.resnet import ResNet
from learndet.structures.instance_data import DetDataSample, InstanceData
from learndet.structures.nms import NMS
from learndet.task_modules.assigners.max_iou_assigner import MaxIoUAssigner
from learndet.task_modules.coders.delta_xywh_coder import DeltaXYWHBBoxCoder
from learndet.task_modules.prior_generators.anchor_generator import AnchorGenerator
from learndet.tools.tour import write_page
from learndet.visualization.anchor_explorer import explore_priors
from learndet.visualization.assignment_inspector import explore_assignment
from learndet.visualization.box_canvas import BoxCanvas, style
from learndet.visualization.coder_explorer import explore_coder
from learndet.visualization.loss_explorer import explore_batch_losses, explore_losses
from learndet.visualization.model_flow import explore_model
from learndet.visualization.nms_explorer import explore_nms
from learndet.visualization.pipeline_explorer import explore_pipeline
from learndet.visualization.prediction_explorer import explore_predictions
from learndet.visualization.training_monitor import TrainingMonitor
from learndet.zoo.retinanet import retinanet

TAGS = ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice']
SCENE = make_scene(5)
GTS = torch.tensor(SCENE.bboxes).float()
SIZES = [(12, 16), (6, 8), (3, 4)]
GENERATOR = AnchorGenerator([16, 32, 64], [.5, 1., 2.], [2.])
PRIORS = GENERATOR.grid_priors(SIZES)


def canvas():
    w = BoxCanvas(SCENE.img, GTS, score=np.linspace(.1, .9, len(GTS)), label=SCENE.labels, names=list(CLASSES), gts=GTS[:2], styles=[style('object')], title='Objects')
    w.message = 'a message'
    return w

def assignment(assigner=MaxIoUAssigner(.5, .4)):
    w = explore_assignment(SCENE.img, torch.cat(PRIORS), GTS, assigner, [len(p) for p in PRIORS])
    w.selected_gt = 2
    return w

def suppression():
    rng, which = torch.Generator().manual_seed(1), torch.arange(24) % len(GTS)
    noise = .13 * (GTS[:, 2:] - GTS[:, :2])[which].repeat(1, 2) * torch.randn(24, 4, generator=rng)
    return explore_nms(SCENE.img, GTS[which] + noise, torch.rand(24, generator=rng), torch.tensor(SCENE.labels)[which], NMS(.5), CLASSES)

def predictions():
    scenes = [make_scene(seed) for seed in range(4)]
    gt, rng = flat_ground_truth([dict(bboxes=s.bboxes, labels=s.labels) for s in scenes], CLASSES), np.random.RandomState(0)
    models = {name: FlatPredictions(gt.img_index, gt.bboxes + 6 * rng.randn(len(gt), 4), rng.rand(len(gt)), np.where(rng.rand(len(gt)) < .3, 0, gt.labels)) for name in 'ab'}
    return explore_predictions(gt, models, [s.img for s in scenes])

def losses():
    w = explore_losses(torch.tensor([60., 50, 124, 114]), GTS[1], SCENE.img)
    w.change(steps=20)
    return w

def small_retinanet():
    torch.manual_seed(0)
    return retinanet(len(CLASSES), ResNet(18), channels=8, stacked_convs=1, data_preprocessor=DetDataPreprocessor([120.] * 3, [60.] * 3, pad_size_divisor=32))

def batch_losses():
    sample = DetDataSample(metainfo=dict(img_shape=SCENE.img.shape[:2], scale_factor=(1., 1.)))
    sample.gt_instances = InstanceData(bboxes=GTS, labels=torch.as_tensor(SCENE.labels).long())
    return explore_batch_losses(small_retinanet(), dict(inputs=[torch.from_numpy(SCENE.img).permute(2, 0, 1).contiguous()], data_samples=[sample]), classes=CLASSES)

def monitor():
    from learndet.engine.optimizers import OptimWrapper
    from learndet.engine.runner import IterBasedTrainLoop, Runner
    class Small(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 1)
        def train_step(self, data, optim_wrapper):
            loss = self.fc(data).square().mean()
            optim_wrapper.update_params(loss)
            return dict(loss=loss.detach())
    import tempfile
    net, hook = Small(), TrainingMonitor(hz=float('inf'), share=float('inf'))
    Runner(net, tempfile.mkdtemp(), torch.utils.data.DataLoader(torch.randn(8, 4)), train_cfg=IterBasedTrainLoop(8), seed=0, log_level='CRITICAL',
           optim_wrapper=OptimWrapper(torch.optim.SGD(net.parameters(), lr=.01)), custom_hooks=[hook],
           default_hooks=dict.fromkeys(('checkpoint', 'visualization', 'progress', 'logger'))).train()
    return hook.view

WIDGETS = dict(
    canvas=canvas, priors=lambda: explore_priors(GENERATOR, SCENE.img, GTS, GTS, SIZES), assignment=assignment,
    two_assigners=lambda: assignment([MaxIoUAssigner(.5, .4), MaxIoUAssigner(.6, .3)]), suppression=suppression, predictions=predictions,
    pipeline=lambda: explore_pipeline([RandomCrop((90, 90))], scene_results(5), CLASSES),
    coder=lambda: explore_coder(DeltaXYWHBBoxCoder(), torch.tensor([60., 50, 124, 114]), GTS[2], SCENE.img), losses=losses, batch_losses=batch_losses,
    model=lambda: explore_model(nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 4, 1)), torch.randn(1, 3, 32, 48)), monitor=monitor)


@pytest.fixture(scope='session')
def axe():
    "A function: page → what axe-core finds wrong with it, a line each."
    found = pytest.importorskip('axe_playwright_python.sync_playwright', reason='axe-core is not installed: pip install axe-playwright-python')
    def audit(page):
        options = dict(runOnly=dict(type='tag', values=TAGS), resultTypes=['violations'])
        violations = found.Axe().run(page, options=options).response['violations']
        return [f'{v["impact"]} {v["id"]} ({v["help"]}): ' + '; '.join(f'{n["html"][:120]} {n["failureSummary"][:200]!r}' for n in v['nodes'][:3]) + f' [{len(v["nodes"])} nodes]'
                for v in violations]
    return audit


DARK = "document.documentElement.style.cssText = '--jp-ui-font-color1: #fff; --jp-layout-color0: #111'"      # JupyterLab's dark theme


@pytest.mark.parametrize('name', WIDGETS)
def test_a_widgets_page(open_widget, axe, name):
    w = open_widget(WIDGETS[name]())
    if w.filter('table').count():                                                           # with the table open and a box picked
        w.filter('table').click()
        w.root.focus()
        for key in ('ArrowRight', 'Enter'): w.page.keyboard.press(key)
        w.settle()
        assert w.get('selected_prior') >= 0
    found = dict(opened=axe(w.page))
    w.page.evaluate(DARK)
    if w.get('scenes'): w.root.locator('[data-scene=next]').click(); w.settle()
    found['another scene, in the dark'] = axe(w.page)
    assert not any(found.values()), '\n'.join(f'{where}: {line}' for where, lines in found.items() for line in lines)


def test_the_report_page(page, axe, tmp_path):
    from matplotlib.figure import Figure
    fig = Figure()
    fig.subplots().plot([1, 2])
    path = write_page(tmp_path / 'report.html', 'A report', [('Numbers', 'mAP 0.5\n' + 'x' * 400), ('A curve', fig)])
    page.goto(path.as_uri())
    assert not (found := axe(page)), '\n'.join(found)
