"The monitor of a training, which must not change it, and the shapes of a model, which must not change it either."
import os
import signal
import threading
import time

import pytest
import torch
from torch import nn

from learndet.engine.hooks import Hook
from learndet.engine.optimizers import OptimWrapper
from learndet.engine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner
from learndet.data.preprocessor import DetDataPreprocessor
from learndet.models.backbones.resnet import ResNet
from learndet.structures.instance_data import DetDataSample, InstanceData
from learndet.task_modules.assigners.assign_result import AssignResult
from learndet.visualization.assignment_inspector import hear_assigners, overhear
from learndet.visualization.model_flow import explore_model, trace_model
from learndet.visualization.training_monitor import LateReader, TrainingMonitor, count_codes, thinned
from learndet.zoo.faster_rcnn import faster_rcnn
from learndet.zoo.retinanet import retinanet


class Net(nn.Module):
    "Learns that four numbers are zero."
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def train_step(self, data, optim_wrapper):
        with optim_wrapper.optim_context(self): loss = self.fc(data).square().mean()
        optim_wrapper.update_params(loss)
        return dict(loss=loss.detach(), loss_half=loss.detach() / 2, many=loss.detach().repeat(3))


def trained(folder, hooks, steps=12, **optim):
    torch.manual_seed(0)
    net, loader = Net(), torch.utils.data.DataLoader(torch.randn(8, 4), batch_size=2)
    runner = Runner(net, folder, loader, train_cfg=IterBasedTrainLoop(steps), optim_wrapper=OptimWrapper(torch.optim.SGD(net.parameters(), lr=.1), **optim),
                    default_hooks=dict.fromkeys(('checkpoint', 'visualization', 'progress', 'logger')), custom_hooks=hooks, seed=0, log_level='ERROR')
    runner.train()
    return net, runner


class Norms(Hook):
    "The gradients' norms, by hand."
    def __init__(self): self.seen = []
    def before_train(self, runner):
        runner.optim_wrapper.optimizer.register_step_pre_hook(lambda opt, args, kwargs: self.seen.append(
            torch.cat([p.grad.flatten() for g in opt.param_groups for p in g['params']]).norm().item()))


def test_watching_changes_nothing_and_sees_everything(tmp_path):
    norms = Norms()
    plain, _ = trained(tmp_path / 'a', [norms])
    monitor = TrainingMonitor(hz=float('inf'), share=float('inf'))
    watched, runner = trained(tmp_path / 'b', [monitor])
    assert all(torch.equal(a, b) for a, b in zip(plain.state_dict().values(), watched.state_dict().values()))
    assert [s for s, _ in monitor.history['loss']] == list(range(12)) and set(monitor.history) == {'loss', 'loss_half', 'lr', 'gradient norm'}
    assert [v for _, v in monitor.history['gradient norm']] == pytest.approx(norms.seen)
    assert [v for _, v in monitor.history['loss_half']] == pytest.approx([v / 2 for _, v in monitor.history['loss']])
    assert not runner.optim_wrapper.optimizer._optimizer_step_pre_hooks and monitor.view.panels[0]['text'].startswith('iteration 12 of 12')
    assert monitor.to_dataframe().loc[11, 'lr'] == pytest.approx(.1)
    assert {'text/plain', 'image/png'} <= set(monitor._repr_mimebundle_()[0])


def test_it_draws_as_often_as_its_budget_allows(tmp_path):
    monitor = TrainingMonitor(hz=1e-3, share=1.)
    trained(tmp_path / 'a', [monitor], steps=40)
    assert monitor.drawn == 3 and len(monitor.history['loss']) == 40 and len(monitor.history['lr']) == 1       # the first step, and the end: two ticks
    monitor = TrainingMonitor(hz=1e9, share=1e-9, show=False)
    trained(tmp_path / 'b', [monitor], steps=40)
    assert monitor.drawn == 3 and monitor.view is None and len(monitor.history['loss']) == 40


def test_clipped_gradients_show_their_norm_before_clipping(tmp_path):
    monitor, norms = TrainingMonitor(hz=float('inf'), share=float('inf')), Norms()
    trained(tmp_path, [monitor, norms], clip_grad=dict(max_norm=1e-3))
    assert max(norms.seen) <= 1.01e-3 < min(v for _, v in monitor.history['gradient norm'])


def test_an_interrupted_run_starts_again_with_the_same_monitor(tmp_path):
    class Break(Hook):
        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            if runner.iter == 5 and self.on: raise RuntimeError('power cut')
    monitor, stop = TrainingMonitor(hz=float('inf'), share=float('inf')), Break()
    stop.on = True
    torch.manual_seed(0)
    net, loader = Net(), torch.utils.data.DataLoader(torch.randn(8, 4), batch_size=2)
    runner = Runner(net, tmp_path, loader, train_cfg=IterBasedTrainLoop(9), optim_wrapper=OptimWrapper(torch.optim.SGD(net.parameters(), lr=.1)),
                    default_hooks=dict.fromkeys(('checkpoint', 'visualization', 'progress', 'logger')), custom_hooks=[stop, monitor], seed=0, log_level='CRITICAL')
    with pytest.raises(RuntimeError, match='power cut'): runner.train()
    stop.on = False
    runner.train()
    assert len(runner.optim_wrapper.optimizer._optimizer_step_pre_hooks) == 0 and monitor.history['loss'][-1][0] == 8


@pytest.mark.parametrize('loop', [lambda: IterBasedTrainLoop(20), lambda: EpochBasedTrainLoop(5)], ids=['iterations', 'epochs'])
def test_stopped_and_gone_on_it_is_the_same_training(tmp_path, loop):
    "Stop is pressed in mid-epoch; then train() again, or a new process with resume=True."
    def run(folder, hooks, **more):
        torch.manual_seed(0)
        net, loader = Net(), torch.utils.data.DataLoader(torch.randn(8, 4), batch_size=2, shuffle=True)
        return Runner(net, tmp_path / folder, loader, train_cfg=loop(), optim_wrapper=OptimWrapper(torch.optim.SGD(net.parameters(), lr=.1, momentum=.9)),
                      default_hooks=dict.fromkeys(('visualization', 'progress', 'logger')), custom_hooks=hooks, seed=0, log_level='ERROR', **more)
    whole = run('whole', [])
    whole.train()
    monitor = TrainingMonitor(hz=float('inf'), share=float('inf'))
    class Press(Hook):
        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            if runner.iter == 6: monitor.view.params = dict(monitor.view.params, stop=1 + (monitor.view.params.get('stop') or 0))
    runner = run('stopped', [Press(), monitor])
    assert runner.train() is runner.model                               # no error
    assert runner.iter == 7 and monitor.place.startswith('stopped after iteration 7 of 20') and monitor.view.controls == [] and not runner.in_training
    assert not runner.optim_wrapper.optimizer._optimizer_step_pre_hooks
    torch.rand(9)
    again = run('again', [], resume=str(tmp_path / 'stopped/interrupted.pth'))
    for r in (runner, again):
        r.train()
        assert r.iter == 20 and r.buffer.values('loss') == whole.buffer.values('loss')
        assert all(torch.equal(v, r.model.state_dict()[k]) for k, v in whole.model.state_dict().items())
    assert [s for s, _ in monitor.history['loss']] == list(range(20)) and monitor.place.startswith('iteration 20 of 20')


class Errors(Hook):
    def __init__(self, at, what): self.at, self.what = at, what
    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter == self.at: self.what()


@pytest.mark.parametrize('interrupted', [False, True])
def test_paused_it_stands_still_until_somebody_says_go(tmp_path, interrupted):
    "Pressing while it trains in a thread; and the notebook's own stop button while it is paused."
    monitor, seen = TrainingMonitor(hz=float('inf'), share=float('inf')), []
    def say():
        while not monitor.place.startswith('paused'): time.sleep(.005)
        for _ in range(3): seen.append(monitor.history['loss'][-1][0]); time.sleep(.05)
        seen.append([c['label'] for c in monitor.view.controls])
        if interrupted: os.kill(os.getpid(), signal.SIGINT)
        else: monitor.view.params = dict(pause=2)
    friend = threading.Thread(target=say)
    hooks = [Errors(3, lambda: (setattr(monitor.view, 'params', dict(pause=1)), friend.start())), monitor]
    if interrupted:
        with pytest.raises(KeyboardInterrupt): trained(tmp_path, hooks)
    else: assert trained(tmp_path, hooks)[1].iter == 12
    friend.join()
    assert seen == [3, 3, 3, ['Resume', 'Stop']] and not monitor.paused and not monitor.view.paused and monitor.view.controls == []
    assert (tmp_path / 'interrupted.pth').exists() == interrupted and monitor.history['loss'][-1][0] == (3 if interrupted else 11)


def test_two_quick_presses_of_pause_are_none():
    monitor = TrainingMonitor()
    for presses, paused in ((1, True), (2, False), (4, False), (5, True)):      # the page may send two presses as one message
        monitor.view.params = dict(pause=presses)
        assert monitor.paused == monitor.view.paused == paused


def test_after_an_error_nobody_listens_any_more(tmp_path):
    monitor = TrainingMonitor(hz=float('inf'), share=float('inf'))
    with pytest.raises(ZeroDivisionError): trained(tmp_path, [Errors(3, lambda: 1 / 0), monitor])
    assert monitor.undo is None and monitor.handle is None and monitor.view.controls == [] and len(monitor.history['loss']) >= 2


class Head(nn.Module):
    class Assigner:
        def assign(self, priors, gt_bboxes, gt_labels=None, gt_valid=None):
            codes = torch.zeros(len(gt_bboxes), len(priors), dtype=torch.long)
            codes[0, :2] = 1
            return AssignResult(codes, torch.zeros(codes.shape))

    def __init__(self):
        super().__init__()
        self.assigner = self.Assigner()

    def get_priors(self): return [torch.zeros(3, 4), torch.zeros(2, 4)]
    def forward(self, gts, valid): return self.assigner.assign(torch.cat(self.get_priors()), gts, gt_valid=valid)


def test_assigners_are_overheard_only_when_wanted():
    head, told, wanted = Head(), [], [True]
    undo = hear_assigners(nn.Sequential(head), lambda *heard: told.append(heard), lambda: wanted[0])
    gts, valid = torch.zeros(2, 3, 4), torch.tensor([[True, True, False], [True, False, False]])
    head(gts, valid)
    wanted[0] = False
    head(gts, valid)
    undo()
    head(gts, valid)
    (stage, assigner, given, result), = told
    positives, orphans, objects = count_codes(result.gt_inds, given['num_level_priors'], given['gt_bboxes'], given['gt_valid'])
    assert (stage, assigner, positives.tolist(), int(orphans), int(objects)) == (0, head.assigner, [2, 0], 2, 3)
    assert 'get_priors' not in vars(head) and 'assign' not in vars(head.assigner)


def test_listeners_come_and_go_in_any_order():
    head, heard = Head(), []
    listeners = {who: (lambda args, kwargs, answer, who=who: heard.append(who)) for who in 'abc'}
    leave = {who: overhear(head, 'get_priors', listener) for who, listener in listeners.items()}
    for who in 'bacb':
        leave[who]()                                                    # twice does no harm
        head.get_priors()
    assert ''.join(heard) == 'acc' and 'get_priors' not in vars(head)


def test_codes_are_counted_as_by_hand():
    rng = torch.Generator().manual_seed(0)
    codes = torch.randint(-1, 4, (4, 30), generator=rng)
    valid = torch.rand(4, 3, generator=rng) > .4
    positives, orphans, objects = count_codes(codes, [20, 10], torch.zeros(4, 3, 4), valid)
    assert positives.tolist() == [(codes[:, :20] > 0).sum(), (codes[:, 20:] > 0).sum()] and objects == valid.sum()
    assert orphans == sum(valid[b, g] and not (codes[b] == g + 1).any() for b in range(4) for g in range(3))
    assert count_codes(codes[:, :0], [], torch.zeros(4, 0, 4))[0].tolist() == [0]


def test_both_stages_of_a_detector_are_seen(tmp_path):
    torch.manual_seed(0)
    model = faster_rcnn(num_classes=3, backbone=ResNet(18), channels=32, fc_out_channels=64, num_proposals=50,
                        data_preprocessor=DetDataPreprocessor([0.] * 3, [255.] * 3, pad_size_divisor=32))
    def sample(n):
        s = DetDataSample(metainfo=dict(img_shape=(96, 128)))
        s.gt_instances = InstanceData(bboxes=torch.tensor([[10., 10, 60, 70], [50, 20, 120, 80]])[:n], labels=torch.tensor([0, 1])[:n])
        return s
    pictures = [torch.randint(0, 255, (3, 96, 128), dtype=torch.uint8) for _ in range(2)]
    monitor = TrainingMonitor(hz=float('inf'), share=float('inf'))
    runner = type('R', (), dict(model=model, optim_wrapper=OptimWrapper(torch.optim.SGD(model.parameters(), lr=1e-4)), iter=0, max_iters=1, epoch=0))()
    monitor.before_train(runner)
    outputs = model.train_step(dict(inputs=pictures, data_samples=[sample(2), sample(0)]), runner.optim_wrapper)
    monitor.after_train_iter(runner, 0, None, outputs)
    monitor.after_train(runner)
    assert sum(v[-1][1] for k, v in monitor.history.items() if k.startswith('positives of level')) > 0
    assert {f'positives of level {n}' for n in range(5)} | {'positives of stage 1', 'objects without a positive', 'positives per object', 'gradient norm', 'loss'} <= set(monitor.history)


def test_late_reader_and_thin_curves():
    reader = LateReader()
    for step in range(5): reader.add(step, dict(a=torch.tensor(float(step)), b=step * 2))
    reader.send(); reader.send()
    assert reader.read() == [(s, k, float(v)) for s in range(5) for k, v in (('a', s), ('b', 2 * s))]
    x, y = thinned([(k, k / 3) for k in range(1000)], 10)
    assert x[0] == 0 and x[-1] == 999 and len(x) == 10 and y[-1] == 333


def test_shapes_are_the_models_own_and_nothing_stays_behind():
    torch.manual_seed(0)
    model, x = retinanet(3, ResNet(18), channels=16, stacked_convs=1).train(), torch.randn(2, 3, 64, 96)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    trace = trace_model(model, x)
    assert model.training and all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    feats = model.eval().extract_feat(x)
    assert [c.name for c in trace.stages] == ['backbone', 'neck', 'bbox_head'] and trace.error == '' and trace.stopped is None
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(trace.stages[1].made, feats))
    assert trace.params[''] == sum(p.numel() for p in model.parameters())


class Chain(nn.Module):
    def __init__(self, *parts):
        super().__init__()
        self.first, self.second = parts
    def forward(self, x): return self.second(self.first(x))


@pytest.mark.parametrize('second, hint', [(nn.Conv2d(16, 4, 1), 'wants 16 channels, got 8'), (nn.BatchNorm2d(5), 'wants 5 channels, got 8'),
                                          (nn.Linear(99, 3), 'wants 99 channels, got 24'), (nn.Flatten(9), '')])
def test_it_stops_where_the_model_stops(second, hint):
    w = explore_model(Chain(nn.Conv2d(3, 8, 3, 2, 1), second), torch.zeros(1, 3, 32, 48))
    assert w.trace.stopped.name == 'second' and w.trace.stopped.hint == hint and w.trace.finished[-1].name == 'first'
    assert w.panels[0]['title'] == 'The model stops' and w.array('state')[0].tolist() == [0, 0, 1] and w.words[2] == 'second: did not come back'
    w.to_png(), w.bake()


def test_rows_and_maps_are_looked_into():
    w = explore_model(Chain(nn.Conv2d(3, 8, 3, 2, 1), nn.Sequential(nn.ReLU(), nn.Conv2d(8, 4, 1))), torch.randn(1, 3, 32, 48))
    w.selected_prior = 1
    assert w.panels[0]['src'].startswith('data:image/png;base64,') and 'stride 2' in w.panels[0]['text']
    assert w.selected_module == 'first'
    w.clicked = [w.panels[-1]['title'], 2, 0, 1]
    assert w.selected_module == 'second.0'
    assert w.panels[0]['title'] == 'second.0' and w.panels[-1]['mark'] == 2 and '% zeros' in w.panels[0]['text']
    w.change(depth=1)
    assert len(w.panels[-1]['rows']) == 2
    broken = explore_model(nn.Sequential(nn.Conv2d(3, 2, 1), nn.Flatten()), torch.full((1, 3, 8, 8), float('nan')))
    broken.selected_prior = 1
    assert 'NOT FINITE' in broken.panels[0]['text']


def test_pages_of_both(open_widget, tmp_path):
    w = open_widget(explore_model(Chain(nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 4, 1)), torch.randn(1, 3, 32, 48)))
    assert w.visible() == 3 and w.js('w.data().arrows.length') == 8
    w.click(*w.js('[...w.data().boxes.slice(4, 8)]')[:2])
    assert w.get('selected_prior') == 1 and 'makes (1, 8, 16, 24)' in w.panel('Why').text_content()
    w.root.locator('[data-scene=next]').click(); w.settle()
    assert w.get('selected_prior') == 0
    monitor = TrainingMonitor(hz=float('inf'), share=float('inf'))
    trained(tmp_path, [monitor])
    w = open_widget(monitor.view)
    assert w.panel('Losses').locator('polyline').count() == 2 and 'iteration 12 of 12' in w.panel('Now').text_content()
    assert w.root.locator('.panels.wide').count() == 1 and not w.root.locator('.stack').is_visible()
