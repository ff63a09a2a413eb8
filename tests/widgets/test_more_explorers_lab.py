"The other explorers in JupyterLab, in one notebook: every handle runs the library, and a training is watched while it runs."
CELLS = ('''import tempfile, time, numpy as np, torch
from torch import nn
from IPython.display import display
from learndet.core.samples import CLASSES, make_scene
from learndet.data.preprocessor import DetDataPreprocessor
from learndet.data.transforms.cropping import RandomCrop
from learndet.models.backbones.resnet import ResNet
from learndet.structures.instance_data import DetDataSample, InstanceData
from learndet.zoo.retinanet import retinanet
from learndet.data.transforms.loading import scene_results
from learndet.engine.optimizers import OptimWrapper
from learndet.engine.runner import IterBasedTrainLoop, Runner
from learndet.evaluation.average_precision import FlatPredictions, flat_ground_truth
from learndet.structures.nms import NMS
from learndet.task_modules.coders.delta_xywh_coder import DeltaXYWHBBoxCoder
from learndet.task_modules.losses.iou_losses import DIoULoss
from learndet.visualization.coder_explorer import explore_coder
from learndet.visualization.loss_explorer import explore_batch_losses, explore_losses, loss_and_gradient
from learndet.visualization.model_flow import explore_model
from learndet.visualization.nms_explorer import explore_nms
from learndet.visualization.pipeline_explorer import explore_pipeline
from learndet.visualization.prediction_explorer import explore_predictions
from learndet.visualization.training_monitor import TrainingMonitor
scenes = [make_scene(seed) for seed in range(6)]
gt = flat_ground_truth([dict(bboxes=s.bboxes, labels=s.labels) for s in scenes], CLASSES)
rng = np.random.RandomState(0)
which = np.repeat(np.arange(len(gt)), 4)
boxes = gt.bboxes[which] + .12 * np.tile(gt.bboxes[which, 2:] - gt.bboxes[which, :2], 2) * rng.randn(len(which), 4)
labels = np.where(rng.rand(len(which)) < .2, rng.randint(3, size=len(which)), gt.labels[which])
pred = FlatPredictions(gt.img_index[which], boxes, rng.rand(len(which)), labels)
one = pred.img_index == 5
found = [torch.tensor(x[one]) for x in (pred.bboxes, pred.scores, pred.labels)]
prior, box = torch.tensor([60., 50, 124, 114]), torch.tensor([80., 60, 190, 120])''',
'''nms = explore_nms(scenes[5].img, *found, NMS(.5), CLASSES)
predictions = explore_predictions(gt, pred, [s.img for s in scenes])
pipeline = explore_pipeline([RandomCrop((90, 90))], scene_results(5), CLASSES)
coder = explore_coder(DeltaXYWHBBoxCoder(), prior, box, scenes[5].img)
losses = explore_losses(prior, box, scenes[5].img)
flow = explore_model(nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 4, 1)), torch.randn(1, 3, 32, 48))
monitor = TrainingMonitor(share=.5)
detector = retinanet(3, ResNet(18), channels=8, stacked_convs=1, data_preprocessor=DetDataPreprocessor([120.] * 3, [60.] * 3, pad_size_divisor=32))
sample = DetDataSample(metainfo=dict(img_shape=scenes[5].img.shape[:2], scale_factor=(1., 1.)))
sample.gt_instances = InstanceData(bboxes=torch.tensor(scenes[5].bboxes).float(), labels=torch.tensor(scenes[5].labels))
batch = explore_batch_losses(detector, dict(inputs=[torch.tensor(scenes[5].img).permute(2, 0, 1)], data_samples=[sample]), classes=CLASSES)
for widget in (nms, predictions, pipeline, coder, losses, flow, monitor, batch): display(widget)''',
'''class Slow(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 1)
    def train_step(self, data, optim_wrapper):
        time.sleep(.05)
        loss = self.fc(data).square().mean()
        optim_wrapper.update_params(loss)
        return dict(loss=loss.detach())
def train(steps):
    net = Slow()
    return Runner(net, tempfile.mkdtemp(), torch.utils.data.DataLoader(torch.randn(8, 4)), train_cfg=IterBasedTrainLoop(steps), seed=0, log_level='CRITICAL',
                  optim_wrapper=OptimWrapper(torch.optim.SGD(net.parameters(), lr=.01)), custom_hooks=[monitor],
                  default_hooks=dict.fromkeys(('checkpoint', 'visualization', 'progress', 'logger'))).train()''')


def test_every_handle_runs_the_library(notebook):
    nb = notebook(*CELLS)
    page = nb.page

    w = nb.canvas(0)                                                            # suppression: a slider, a step, a pick
    w.root.scroll_into_view_if_needed()
    before = nb.python('len(nms.keep)')
    w.control('iou_threshold').focus()
    for _ in range(25): page.keyboard.press('ArrowRight')
    w.wait("Math.abs(w.model.get('params').iou_threshold - .75) < 1e-6 && w.model.get('panels')[0].rows.at(-1)[2] !== '%d stay'" % before)
    assert nb.python('sorted(nms.keep)') == nb.python('sorted(NMS(.75)(*[f.float() if f.is_floating_point() else f for f in found])[0].tolist())')
    w.panel('Steps').or_(w.root.locator('[data-panel^="Steps"]')).first.locator('tbody tr').last.click()
    w.wait("w.data().state.filter(s => s == 1).length === %d" % nb.python('len(nms.keep)'))
    w.control('rule').select_option('soft, linear')
    w.wait("w.data().state.some(s => s == 3)")
    w.wait("Math.abs(w.model.get('iou_thr') - .75) < 1e-6")     # traits of their own names: from the slider to the kernel and back,
    w.js("(w.model.set('iou_thr', .6), w.model.save_changes())")                        # from the page without a slider,
    w.wait("w.model.get('params').iou_threshold === .6 && w.model.get('panels').some(p => p.title.startsWith('Steps'))")
    assert nb.python('[nms.iou_thr, nms.nms.iou_threshold, nms.keep == nms.kept.tolist()]') == [.6, .6, True]
    nb.python('setattr(nms, "score_thr", .4)')                                          # and from Python
    w.wait("w.model.get('params').score_thr === .4 && w.model.get('score_thr') === .4 && w.data().state.some(s => s == 5)")
    assert w.control('score_thr').input_value() == '0.4' and w.get('keep') == nb.python('nms.keep')

    w = nb.canvas(1)                                                            # predictions: thresholds, a cell of the matrix
    w.root.scroll_into_view_if_needed()
    w.control('score_thr').fill('0.6')
    w.wait("w.model.get('params').score_thr === .6")
    row = nb.python('[list(predictions.errors[0].rates(.6).values()), [float(v) for v in predictions.panels[0]["rows"][0][1:4]]]')
    assert all(abs(a - b) < 1e-3 for a, b in zip(*row))
    cell = nb.python('[[int(r), int(c)] for r in range(3) for c in range(3) if r != c and predictions.pictures_of_cell(r, c)][0]')
    w.panel('Confusion').locator('tbody tr').nth(cell[0]).locator('td').nth(cell[1] + 1).click()
    w.root.locator('[data-panel*=" called "]').wait_for()
    assert nb.python(f'predictions.shown == predictions.pictures_of_cell({cell[0]}, {cell[1]})[0]')

    w = nb.canvas(2)                                                            # a pipeline: roll again
    w.root.scroll_into_view_if_needed()
    seen = set()
    for n in range(4):
        w.control('again').click()
        w.wait(f"w.model.get('params').again === {n + 1}")
        w.wait(f"w.model.get('panels').some(p => p.title === '1 RandomCrop, seed {n + 1}')")
        seen.add(w.js('[...w.data().boxes].join()'))
    assert len(seen) > 1 and nb.python('pipeline.traced') == 4

    w = nb.canvas(3)                                                            # a coder: drag the prior, move it by key
    w.root.scroll_into_view_if_needed()
    page.mouse.move(*w.place(92, 82)); page.mouse.down(); page.mouse.move(*w.place(112, 92), steps=4); page.mouse.up()
    w.wait("Math.abs(w.data().gts[0] - 80) < 1.5 && Math.abs(w.data().gts[1] - 60) < 1.5")
    w.root.focus()
    for key in (']', 'Alt+ArrowLeft', 'Alt+Shift+ArrowDown'): page.keyboard.press(key)
    w.settle()
    x1, y1, x2, y2 = w.js('[...w.data().gts.slice(0, 4)]')
    page.wait_for_timeout(300)
    gts, deltas = nb.python('[coder.array("gts").tolist(), coder.deltas]')
    assert gts[0] == [x1, y1, x2, y2] and abs((y2 - y1) - 65) < .1 and abs((x2 - x1) - 64) < .1
    expected = nb.python('DeltaXYWHBBoxCoder().encode(torch.tensor(coder.array("gts"))[:1], torch.tensor(coder.array("gts"))[1:])[0].tolist()')
    assert max(abs(a - b) for a, b in zip(deltas, expected)) < 1e-5

    w = nb.canvas(4)                                                            # losses: another pull, drag
    w.root.scroll_into_view_if_needed()
    w.panel('Losses').locator('tbody tr').nth(2).click()
    w.wait("w.model.get('params').loss === 'DIoU'")
    page.mouse.move(*w.place(70, 60)); page.mouse.down(); page.mouse.move(*w.place(75, 60), steps=3); page.mouse.up()
    w.wait("Math.abs(w.data().gts[4] - 65) < 1.5")
    page.wait_for_timeout(100)
    value = nb.python('[losses.values["DIoU"], float(DIoULoss()(torch.tensor(losses.array("gts"))[1:], torch.tensor(losses.array("gts"))[:1]))]')
    assert abs(value[0] - value[1]) < 1e-6

    w = nb.canvas(5)                                                            # a model: look into a module
    w.root.scroll_into_view_if_needed()
    w.root.locator('[data-panel$="to learn"]').locator('tbody tr').nth(1).click()
    w.root.locator('[data-panel="1"] img').wait_for()
    assert nb.python('flow.selected_module == flow.rows()[1].name')

    w = nb.canvas(7)                                                            # a batch's loss: one level, one term, one prior
    w.root.scroll_into_view_if_needed()
    w.control('term').select_option('box')
    w.wait("w.model.get('panels').some(p => p.title === 'Top contributors, box')")
    w.filter('levels.0').uncheck()
    w.wait("w.model.get('panels').some(p => p.title === 'Top contributors, box, levels 1, 2, 3, 4')")
    w.root.locator('[data-panel^="Top contributors"]').locator('tbody tr').nth(1).click()
    w.root.locator('[data-panel^="Terms of prior"]').first.wait_for()
    picked = nb.python('[batch.selected_prior, batch.top(2)[1]["prior"], batch.terms().query("term == \'box\' and part == \'all\'").divided.item(), float(batch.each[batch.selected_prior])]')
    assert picked[0] == picked[1] and abs(picked[2] - picked[3]) < 1e-6 and f'prior {picked[0]}' in w.root.locator('[data-panel^="Terms"] h2').first.text_content()

    w = nb.canvas(6)                                                            # a training: the picture moves while the kernel is busy
    w.root.scroll_into_view_if_needed()
    page.evaluate("window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.requestExecute({code: 'train(60)'})")
    w.wait("w.model.get('panels').some(p => p.text?.includes('iteration'))")
    first = w.panel('Now').text_content()
    w.wait(f"w.model.get('panels').find(p => p.title === 'Now').text.slice(0, 14) !== {first[3:17]!r}")
    assert page.evaluate('window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.status') == 'busy'
    w.wait("w.model.get('panels').find(p => p.title === 'Now').text.startsWith('iteration 60 of 60')")
    assert nb.python('[len(monitor.history["loss"]), monitor.drawn <= 25]') == [60, True]
