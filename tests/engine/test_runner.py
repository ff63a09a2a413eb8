"Hooks, loops, logs, checkpoints and configs of the runner."
import json, sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

sys.path.insert(0, str(Path(__file__).parent))
import toy
from toy import MeanError, SpotNet, Spots, loader, sgd

from learndet.core.registry import DATASETS, EVALUATORS, MODELS
from learndet.engine import default_hooks as H
from learndet.engine.checkpoint import find_latest_checkpoint
from learndet.engine.config import Config
from learndet.engine.hooks import MOMENTS, Hook, TracerHook, get_priority, insert_hook
from learndet.engine.logging import LogBuffer, LogProcessor, json_line, read_json_lines
from learndet.engine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner, ValLoop, interval_milestones, fill_num_classes, runner_args


def make(work_dir, loop=None, n=12, hooks=(), **kwargs):
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = SpotNet()
    kwargs.setdefault('val_dataloader', loader(4, 2, shuffle=False))
    defaults = dict(progress=None) | kwargs.pop('default_hooks', {})
    return Runner(model, work_dir, loader(n, 4), train_cfg=loop or EpochBasedTrainLoop(2), optim_wrapper=sgd(model), val_evaluator=MeanError(),
                  seed=0, custom_hooks=list(hooks), default_hooks=defaults, log_level='ERROR', **kwargs)


def weights(runner): return torch.cat([p.detach().flatten() for p in runner.model.parameters()])


# ---- hooks

def test_every_moment_comes_in_order(tmp_path):
    tracer = TracerHook()
    make(tmp_path, n=8, hooks=[tracer]).train()
    names = [t[0] for t in tracer.trace]
    it, val = ['before_train_iter', 'after_train_iter'], ['before_val_iter', 'after_val_iter']
    save = ['before_save_checkpoint', 'after_save_checkpoint']
    epoch = ['before_train_epoch', *it * 2, 'after_train_epoch', *save, 'before_val', 'before_val_epoch', *val * 2, 'after_val_epoch', 'after_val']
    assert names == ['before_run', 'before_train', *epoch * 2, 'after_train', 'after_run']
    assert [t for t in tracer.trace if t[0] == 'before_train_iter'] == [('before_train_iter', e, i) for i, e in enumerate((0, 0, 1, 1))]
    assert len(MOMENTS) == len(set(MOMENTS)) == 22


def test_unknown_moments_are_errors(tmp_path):
    with pytest.raises(ValueError, match="after_train_iter"):
        class Wrong(Hook):
            def after_training_iter(self, runner): ...
    with pytest.raises(ValueError, match="before_val_epoch"):
        class Typo(Hook):
            def befor_val_epoch(self, runner): ...
    class Grown(Hook): ...
    Grown.after_trian_iter = lambda self, runner: None
    with pytest.raises(ValueError, match="did you mean 'after_train_iter'"): insert_hook([], Grown())
    with pytest.raises(ValueError, match="did you mean 'before_run'"): make(tmp_path).call_hook('before_runs')
    with pytest.raises(ValueError, match="did you mean 'HIGHEST'"): get_priority('HIGEST')
    with pytest.raises(ValueError, match='between 0 and 100'): get_priority(101)


def test_priorities():
    hooks = []
    for name, priority in (('a', 'NORMAL'), ('b', 49), ('c', None), ('d', 'VERY_LOW'), ('e', 'HIGHEST')):
        hook = Hook()
        hook.name = name
        insert_hook(hooks, hook, priority)
    assert [h.name for h in hooks] == ['e', 'b', 'a', 'c', 'd']


def test_mmengine_style_shared_methods(tmp_path):
    class Counter(Hook):
        def __init__(self): self.seen = []
        def _after_iter(self, runner, batch_idx, data_batch=None, outputs=None, mode='train'): self.seen.append(mode)
        def _before_epoch(self, runner, mode='train'): self.seen.append(mode.upper())
    counter = Counter()
    make(tmp_path, n=8, loop=EpochBasedTrainLoop(1), hooks=[counter]).train()
    assert counter.seen == ['TRAIN', 'train', 'train', 'VAL', 'val', 'val']


def test_a_default_hook_can_be_left_out(tmp_path):
    runner = make(tmp_path, default_hooks=dict(checkpoint=None, logger=None))
    runner.train()
    assert not list(tmp_path.glob('*.pth')) and runner.find_hook(H.LoggerHook) is None


# ---- loops

@pytest.mark.parametrize('begin, interval, expected', [(1, 1, [1, 2, 3, 4, 5]), (3, 1, [3, 4, 5]), (1, 2, [2, 4, 5]), (6, 1, [])])
def test_validation_epochs(tmp_path, begin, interval, expected):
    tracer = TracerHook()
    make(tmp_path, EpochBasedTrainLoop(5, begin, interval), n=4, hooks=[tracer], default_hooks=dict(checkpoint=None, logger=None)).train()
    assert [e for name, e, _ in tracer.trace if name == 'before_val'] == expected


def test_dynamic_intervals(tmp_path):
    loop = IterBasedTrainLoop(368750, val_interval=5000, dynamic_intervals=[(368750 // 5000 * 5000 + 1, 368750)])
    assert loop.milestones == ([0, 365001], [5000, 368750])
    assert (loop.interval_at(365000), loop.interval_at(365001)) == (5000, 368750)
    tracer = TracerHook()
    make(tmp_path, IterBasedTrainLoop(11, val_interval=2, dynamic_intervals=[(5, 3), (7, 11)]), n=8, hooks=[tracer],
         default_hooks=dict(checkpoint=None, logger=None)).train()
    assert [i for name, _, i in tracer.trace if name == 'before_val'] == [2, 4, 6, 11]
    assert [e for name, e, _ in tracer.trace if name == 'before_train_iter'] == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5]


def test_validation_leaves_no_trace_in_training(tmp_path):
    runs = [make(tmp_path / str(i), **kwargs) for i, kwargs in enumerate((dict(val_dataloader=None), {}, dict(val_cfg=ValLoop(val_loss=True))))]
    for r in runs: r.train()
    assert torch.equal(weights(runs[0]), weights(runs[1])) and torch.equal(weights(runs[0]), weights(runs[2]))
    assert set(runs[2].metrics) == {'error_px', 'map', 'val/loss_xy', 'val/loss_wh', 'val/loss'}
    assert runs[2].model.training and torch.is_grad_enabled()


def test_same_seed_same_losses(tmp_path):
    losses = []
    for i in (0, 1):
        runner = make(tmp_path / str(i))
        runner.train()
        losses.append(runner.buffer.history['loss'])
    assert list(losses[0]) == list(losses[1]) and len(losses[0]) == 6


# ---- log

class NoReads(TorchDispatchMode):
    "Counts what would make a GPU wait."
    def __init__(self): super().__init__(); self.reads = 0
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.reads += '_local_scalar_dense' in str(func)
        return func(*args, **(kwargs or {}))


def test_the_buffer_reads_nothing_until_asked():
    buffer = LogBuffer()
    with NoReads() as mode:
        for i in range(50): buffer.update(dict(loss=torch.tensor(float(i)), acc=torch.tensor(i), lr=.1))
        assert mode.reads == 0
        assert buffer.mean('loss', 10) == 44.5 and buffer.last('acc') == 49 and list(buffer.history['lr']) == [.1] * 50
    x = torch.ones((), requires_grad=True)
    buffer.update(dict(loss=x * 2))
    assert not buffer.pending[0][1].requires_grad
    again = LogBuffer()
    again.load_state_dict(json.loads(json.dumps(buffer.state_dict())))
    assert again.mean('loss') == buffer.mean('loss') and again.counts == buffer.counts


def test_json_is_json_whatever_happens():
    line = json_line(dict(loss=float('nan'), lr=np.float32(.5), n=np.int64(3), worst=-float('inf'), name='x'))
    record = json.loads(line, parse_constant=lambda c: pytest.fail(c))
    assert record == dict(loss=None, lr=.5, n=3, worst=None, name='x', nonfinite=dict(loss='nan', worst='-inf'))


def test_log_files(tmp_path):
    runner = make(tmp_path, default_hooks=dict(logger=H.LoggerHook(interval=2)), n=16)
    runner.train()
    records = read_json_lines(runner.log_dir / 'vis_data' / 'scalars.json')
    assert [(r['mode'], r['step']) for r in records] == [('train', 2), ('train', 4), ('val', 1), ('train', 6), ('train', 8), ('val', 2)]
    assert {'lr', 'data_time', 'time', 'loss', 'loss_xy', 'epoch', 'iter'} <= set(records[0]) and records[0]['epoch'] == 1
    text = (runner.log_dir / f'{runner.timestamp}.log').read_text()
    assert '16 images, batch 4 (1 × 4), lr 0.05' in text and 'Train([2][4/4])' in text and 'Val([2])  error_px' in text
    with open(runner.log_dir / 'vis_data' / 'scalars.json', 'a') as f: f.write('{"cut')
    assert len(read_json_lines(runner.log_dir / 'vis_data' / 'scalars.json')) == 6


def test_window_and_custom_records():
    buffer = LogBuffer()
    for i in range(20): buffer.update(dict(loss=torch.tensor(float(i)), lr=i / 10))
    processor = LogProcessor(window_size=4, custom_cfg=[dict(data_src='loss', log_name='loss_max', method_name='max', window_size='global'),
                                                        dict(data_src='loss', log_name='loss_epoch', window_size='epoch')])
    assert processor.record(buffer, batch_idx=9) == dict(lr=1.9, loss=17.5, loss_max=19., loss_epoch=14.5)


# ---- checkpoints

def test_keeps_the_last_and_the_best(tmp_path, monkeypatch):
    scores, alive = iter([.1, .5, .3, float('nan'), .4]), []
    class Score(MeanError):
        def evaluate(self, size=None): return dict(map=next(scores), other=1.)
    runner = make(tmp_path, EpochBasedTrainLoop(5), n=4, default_hooks=dict(checkpoint=H.CheckpointHook(1, max_keep_ckpts=2, save_best='auto'), logger=None))
    runner.val_loop.evaluator = Score()
    unlink = Path.unlink
    monkeypatch.setattr(Path, 'unlink', lambda self, **k: (alive.append((self.name, (tmp_path / 'last_checkpoint').read_text() if '.pth' in self.name else '')), unlink(self, **k)))
    runner.train()
    assert sorted(p.name for p in tmp_path.glob('*.pth')) == ['best_map_epoch_2.pth', 'epoch_4.pth', 'epoch_5.pth']
    deleted = [a for a in alive if a[0].startswith('epoch')]
    assert deleted == [('epoch_1.pth', 'epoch_3.pth'), ('epoch_2.pth', 'epoch_4.pth'), ('epoch_3.pth', 'epoch_5.pth')]   # after the newer one
    assert Path(find_latest_checkpoint(tmp_path)).name == 'epoch_5.pth'
    runner.val_loop.evaluator = type('Better', (MeanError,), dict(evaluate=lambda self, size=None: dict(map=.9)))()
    runner.val()
    assert not (tmp_path / 'best_map_epoch_5.pth').exists()              # a validation outside of training saves nothing


def test_metric_rules():
    assert [H.metric_rule(k) for k in ('coco/bbox_mAP', 'val/loss', 'pascal_voc/AP50', 'recall')] == ['greater', 'less', 'greater', 'greater']
    with pytest.raises(ValueError, match='rule='): H.metric_rule('wibble')
    assert H.metric_rule('wibble', 'less') == 'less'


def test_load_from_starts_at_zero_and_resume_goes_on(tmp_path):
    first = make(tmp_path / 'a', EpochBasedTrainLoop(2))
    first.train()
    path = tmp_path / 'a' / 'epoch_2.pth'
    fine = make(tmp_path / 'b', load_from=str(path))
    fine.prepare()
    assert (fine.epoch, fine.iter) == (0, 0) and torch.equal(weights(fine), weights(first))
    again = make(tmp_path / 'c', EpochBasedTrainLoop(3), load_from=str(path), resume=True)
    again.prepare()
    assert (again.epoch, again.iter, again.buffer.counts['loss']) == (2, 6, 6)
    auto = make(tmp_path / 'a', EpochBasedTrainLoop(3), resume=True)
    auto.train()
    assert (auto.epoch, auto.iter) == (3, 9) and (tmp_path / 'a' / 'epoch_3.pth').exists()
    fresh = make(tmp_path / 'd', resume=True)
    fresh.prepare()
    assert fresh.iter == 0


def test_resume_refuses_other_classes_and_weights_only(tmp_path):
    first = make(tmp_path, default_hooks=dict(checkpoint=H.CheckpointHook(1, save_best='map')))
    first.model.dataset_meta = dict(classes=('spot',))
    first.train()
    other = make(tmp_path / 'b', resume=str(tmp_path / 'epoch_2.pth'))
    other.model.dataset_meta = dict(classes=('blob',))
    with pytest.raises(ValueError, match=r"trained on classes \['spot'\], this run has \['blob'\]"): other.train()
    best = next(tmp_path.glob('best*'))
    with pytest.raises(ValueError, match='cannot be resumed; use load_from'): make(tmp_path / 'c', resume=str(best)).train()


def test_refuses_to_start(tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(OSError, match='cannot be written .* nothing was trained'): make(tmp_path / 'file' / 'run').train()
    runner = make(tmp_path)
    runner.train_dataloader = torch.utils.data.DataLoader(Spots(3), batch_size=4, drop_last=True)
    with pytest.raises(ValueError, match='3 images, which is less than one batch of 4'): runner.train()
    with pytest.raises(ValueError, match='give val_dataloader'): make(tmp_path, val_dataloader=None).val()


# ---- other hooks

def test_ema_is_what_gets_validated_and_published(tmp_path):
    ema = H.EMAHook('ExponentialMovingAverage', momentum=.5)
    class Look(Hook):
        def before_val_iter(self, runner, batch_idx, data_batch=None): self.seen = weights(runner).clone()
    look = Look()
    runner = make(tmp_path, hooks=[ema, look])
    runner.train()
    average = torch.cat([p.flatten() for p in ema.ema_model.module.parameters()])
    assert torch.equal(look.seen, average) and not torch.equal(average, weights(runner))
    saved = torch.load(tmp_path / 'epoch_2.pth', weights_only=True)
    assert torch.equal(saved['state_dict']['fc.weight'], ema.ema_model.module.fc.weight)
    assert torch.equal(saved['ema_state_dict']['module.fc.weight'], runner.model.fc.weight)


def test_ema_begins_late(tmp_path):
    ema = H.EMAHook(momentum=.5, begin_epoch=1)
    runner = make(tmp_path, hooks=[ema])
    runner.train()
    assert ema.ema_model.calls == 3
    assert 'ema_state_dict' not in torch.load(tmp_path / 'epoch_1.pth', weights_only=True)


def test_early_stopping(tmp_path):
    hook = H.EarlyStoppingHook('map', min_delta=.1, patience=2)
    assert [hook.reason_to_stop(v) for v in (.1, .3, .35)] == [None] * 3
    assert 'not better than 0.3000 for 2' in hook.reason_to_stop(.39)
    assert 'nan' in H.EarlyStoppingHook('map').reason_to_stop(float('nan'))
    assert 'reached' in H.EarlyStoppingHook('loss', stopping_threshold=.2).reason_to_stop(.1)
    runner = make(tmp_path, EpochBasedTrainLoop(9), n=4, hooks=[H.EarlyStoppingHook('map', min_delta=1, patience=2)])
    runner.train()
    assert runner.epoch == 3


def test_class_counts(tmp_path):
    runner = make(tmp_path)
    runner.model.num_classes = 3
    with pytest.raises(ValueError, match='num_classes=3, but Spots has 1 classes: spot'): runner.train()
    H.check_num_classes(runner.model, None)
    Spots.metainfo, before = dict(classes='spot'), Spots.metainfo
    try:
        with pytest.raises(TypeError, match=r"write \('spot',\)"): H.check_num_classes(runner.model, Spots())
    finally: Spots.metainfo = before


def test_pictures_of_the_same_images(tmp_path):
    class Pixels(SpotNet):
        def val_step(self, data):
            for s, img in zip(data['data_samples'], data['inputs']): s.set_metainfo(dict(img=(img[0, :, :, None].expand(-1, -1, 3) * 99).byte().numpy()))
            return super().val_step(data)
    runner = make(tmp_path, default_hooks=dict(visualization=H.DetVisualizationHook(draw=True, interval=1, max_images=2)))
    runner.model.__class__ = Pixels
    runner.train()
    names = sorted(p.name for p in (runner.log_dir / 'vis_data' / 'vis_image').iterdir())
    assert names == ['val_img_0_3.png', 'val_img_0_6.png', 'val_img_1_3.png', 'val_img_1_6.png']


def test_pipeline_switch(tmp_path):
    class Piped(Spots):
        pipeline = 'old'
    seen = []
    class Look(Hook):
        def before_train_iter(self, runner, batch_idx, data_batch=None): seen.append(type(runner.train_dataloader.dataset.pipeline).__name__)
    runner = make(tmp_path, EpochBasedTrainLoop(3), n=4, hooks=[H.PipelineSwitchHook(1, []), Look()])
    runner.train_dataloader.dataset.__class__ = Piped
    runner.train()
    assert seen == ['str', 'Compose', 'Compose']


def test_epoch_info_and_memory(tmp_path):
    lines = []
    runner = make(tmp_path, hooks=[H.SetEpochInfoHook(), H.MemoryProfilerHook(interval=2)])
    runner.model.set_epoch = lambda e: lines.append(e)
    runner.train()
    assert lines == [0, 1]
    text = (runner.log_dir / f'{runner.timestamp}.log').read_text()
    fields = 'available_memory used_memory memory_utilization available_swap_memory used_swap_memory swap_memory_utilization current_process_memory'
    assert all(f in text for f in fields.split())


# ---- configs

class Head(torch.nn.Module):
    def __init__(self, num_classes): super().__init__(); self.num_classes = num_classes

class Boxed(SpotNet):
    def __init__(self, head=None, rpn_head=None): super().__init__(); self.head, self.num_classes = head, None

def config(**changes):
    data = dict(batch_size=4, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=True), dataset=dict(type=Spots, n=12))
    return dict(default_scope='mmdet', model=dict(type=Boxed, head=dict(type=Head), rpn_head=dict(type=Head, num_classes=7)),
        train_dataloader=data, val_dataloader=dict(batch_size=2, sampler=dict(type='DefaultSampler', shuffle=False), dataset=dict(type=Spots, n=4)),
        test_dataloader=dict(batch_size=2, dataset=dict(type=Spots, n=4)), val_evaluator=MeanError(), test_evaluator=MeanError(),
        train_cfg=dict(type='EpochBasedTrainLoop', max_epochs=2, val_interval=1), val_cfg=dict(type='ValLoop'), test_cfg=dict(type='TestLoop'),
        optim_wrapper=dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=.08, momentum=.9)), auto_scale_lr=dict(base_batch_size=8),
        param_scheduler=[dict(type='LinearLR', start_factor=.1, by_epoch=False, begin=0, end=3), dict(type='MultiStepLR', milestones=[1])],
        default_hooks=dict(timer=dict(type='IterTimerHook'), logger=dict(type='LoggerHook', interval=1), param_scheduler=dict(type='ParamSchedulerHook'),
                           checkpoint=dict(type='CheckpointHook', interval=1, max_keep_ckpts=1), sampler_seed=dict(type='DistSamplerSeedHook'),
                           visualization=dict(type='DetVisualizationHook'), progress=None),
        custom_hooks=[dict(type='EMAHook', ema_type='ExpMomentumEMA', momentum=.01, priority=49), dict(type='NumClassCheckHook')],
        env_cfg=dict(cudnn_benchmark=False, mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0), dist_cfg=dict(backend='nccl')),
        vis_backends=[dict(type='LocalVisBackend')], visualizer=dict(type='DetLocalVisualizer', vis_backends=[dict(type='LocalVisBackend')], name='v'),
        log_processor=dict(type='LogProcessor', window_size=50, by_epoch=True), log_level='ERROR', load_from=None, resume=False, launcher='none',
        randomness=dict(seed=3), compile=False) | changes


def test_a_complete_config_runs(tmp_path):
    runner = Runner.from_cfg(Config(config(work_dir=str(tmp_path))))
    runner.train()
    assert runner.epoch == 2 and set(runner.test()) == {'error_px', 'map'} and runner.model.head.num_classes == 1
    assert 'LR scaled from 0.08 to 0.04' in (runner.log_dir / f'{runner.timestamp}.log').read_text()
    assert runner.seed == 3 and runner.find_hook(H.EMAHook).priority == 49 and runner.model.dataset_meta['classes'] == ('spot',)
    assert torch.load(tmp_path / 'epoch_2.pth', weights_only=True)['meta']['dataset_meta'] == dict(classes=['spot'])


def test_the_same_config_by_iterations(tmp_path):
    cfg = config(work_dir=str(tmp_path), train_cfg=dict(type='IterBasedTrainLoop', max_iters=7, val_interval=3),
                 param_scheduler=[dict(type='MultiStepLR', milestones=[4], by_epoch=False)], log_processor=dict(window_size=50, by_epoch=False))
    cfg['train_dataloader'] |= dict(sampler=dict(type='InfiniteSampler'))
    cfg['default_hooks'] |= dict(checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=5))
    runner = Runner.from_cfg(cfg)
    runner.train()
    assert runner.iter == 7 and sorted(p.name for p in tmp_path.glob('*.pth')) == ['iter_5.pth', 'iter_7.pth']
    assert 'Train([7/7])' in (runner.log_dir / f'{runner.timestamp}.log').read_text()


def test_config_faults(tmp_path):
    misspelt = config()
    misspelt['optim_wraper'] = misspelt.pop('optim_wrapper')
    with pytest.raises(Exception, match="optim_wraper.*optim_wrapper"): runner_args(misspelt)
    cfg = config(model=dict(type=Boxed, head=dict(type=Head, num_classes=80)))
    with pytest.raises(ValueError, match=r'model.head.num_classes is 80, but train_dataloader.dataset \(Spots\) has 1 classes: spot'): runner_args(cfg)
    cfg = config(train_cfg=dict(type='EpochBasedTrainLoop', max_epoch=2))
    with pytest.raises(TypeError, match='train_cfg.max_epoch.*max_epochs'): runner_args(cfg)
    off = config(auto_scale_lr=dict(enable=False, base_batch_size=8), work_dir=str(tmp_path))
    assert 'has been disabled' in runner_args(off)['lr_rule'] and runner_args(off)['optim_wrapper'].get_lr()['lr'][0] == pytest.approx(.008)


def test_compile_reaches_torch_compile(monkeypatch):
    calls = []
    monkeypatch.setattr(torch, 'compile', lambda f, **kw: calls.append(kw) or f)
    runner_args(config(compile=dict(mode='reduce-overhead')))
    assert calls == [dict(mode='reduce-overhead')]


def test_compile_true_compiles_the_tasks():
    "`compile=True` reaches assignment and loss; a dict names a method, as in MMDetection."
    from learndet.engine.runner import compiled

    class Tasks(torch.nn.Module):
        done = ()
        def compile_tasks(self): self.done = ['bbox_head']; return self.done
        def forward(self, x): return x

    model = compiled(Tasks(), True)
    assert model.done == ['bbox_head'] and 'forward' not in vars(model)
    named = compiled(Tasks(), dict(target='forward', backend='eager'))
    assert named.done == () and named.forward(torch.ones(1)) == 1 and 'forward' in vars(named)
