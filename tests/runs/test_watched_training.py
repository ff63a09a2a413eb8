"""A real training with a TrainingMonitor and an AssignmentInspectorHook among its hooks: what is shown is what the heads' own assigners said
in that very step, and the training is the same to the bit."""
import functools

import pytest
import torch

from learndet.core.samples import samples_dir
from learndet.engine.runner import Runner
from learndet.task_modules.assigners.max_iou_assigner import MaxIoUAssigner
from learndet.visualization.assignment_inspector import AssignmentInspector, AssignmentInspectorHook
from learndet.visualization.training_monitor import TrainingMonitor

SMALL = dict(num_classes=3, channels=16, backbone=dict(type='ResNet', depth=18, base_channels=16, stem_channels=16, norm_eval=False),
             data_preprocessor=dict(type='DetDataPreprocessor', mean=[120.] * 3, std=[60.] * 3, bgr_to_rgb=True, pad_size_divisor=32))
MODELS = dict(retinanet=dict(type='retinanet', stacked_convs=1, anchor_scale=2., **SMALL),
              faster_rcnn=dict(type='faster_rcnn', anchor_scale=4., fc_out_channels=32, num_proposals=40, num_regions=32, **SMALL))
PIPELINE = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'), dict(type='Resize', scale=(128, 128), keep_ratio=True),
            dict(type='RandomFlip', prob=.5), dict(type='PackDetInputs')]


def config(folder, model, hooks, steps=4):
    data = dict(type='CocoDataset', data_root=str(samples_dir()), ann_file='train.json', data_prefix=dict(img='JPEGImages/'), pipeline=PIPELINE)
    return dict(model=MODELS[model], work_dir=str(folder), train_cfg=dict(type='IterBasedTrainLoop', max_iters=steps), randomness=dict(seed=3), log_level='ERROR',
                train_dataloader=dict(batch_size=2, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=True), dataset=data),
                optim_wrapper=dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=.01, momentum=.9), clip_grad=dict(max_norm=10)),
                default_hooks=dict(checkpoint=None, visualization=None, progress=None), custom_hooks=hooks)


def trained(folder, model, hooks):
    torch.manual_seed(0)
    runner = Runner.from_cfg(config(folder, model, hooks))
    runner.train()
    return runner


@pytest.fixture
def truth(monkeypatch):
    "Every answer of every assigner, written down without the hook's help."
    answers, own = [], MaxIoUAssigner.assign
    @functools.wraps(own)
    def assign(self, *args, **kwargs):
        result = own(self, *args, **kwargs)
        answers.append((self, args[0].detach().clone(), result.gt_inds.clone()))
        return result
    monkeypatch.setattr(MaxIoUAssigner, 'assign', assign)
    return answers


def spelled(how, kind, **more): return dict(type=kind.__name__, **more) if how == 'config' else kind(**more)


@pytest.mark.parametrize('how', ['config', 'object'])
@pytest.mark.parametrize('model', MODELS)
def test_the_inspector_shows_what_the_heads_were_told_in_that_step(tmp_path, truth, model, how):
    runner = trained(tmp_path, model, [spelled(how, AssignmentInspectorHook), spelled(how, TrainingMonitor, hz=float('inf'), share=float('inf'))])
    hook, answers, stages = runner.find_hook(AssignmentInspectorHook), list(truth), 1 + (model == 'faster_rcnn')
    assert len(answers) == 4 * stages                                       # nothing was assigned twice while training
    objects = 0
    for stage, (assigner, priors, codes) in enumerate(answers[-stages:]):   # those of the last step
        for image in range(2):
            w = hook.inspector(image, stage)
            assert isinstance(w, AssignmentInspector) and w.first == [assigner]
            asked = priors if priors.dim() == 2 else priors[image]
            assert torch.equal(w.priors, asked) and torch.equal(w.traces[0].gt_inds, codes[image])
            state, label = torch.tensor(w.array('state')[0]), torch.tensor(w.array('label')[0])
            assert torch.equal(state == 1, codes[image] == -1) and torch.equal(state >= 2, codes[image] > 0)
            assert torch.equal(label[state >= 2].long(), codes[image][state >= 2] - 1)
            objects += len(w.objects)
            w.change(pos_iou_thr=.9)                                        # and it can be asked for more
            assert int((w.traces[0].gt_inds > 0).sum()) <= int((codes[image] > 0).sum()) and not w.message
    assert objects and any((codes > 0).any() for _, _, codes in answers[-stages:])
    heads = [m for m in runner.model.modules() if hasattr(m, 'assigner')]
    assert len(heads) == stages and not any({'assign', 'get_priors', 'preprocess'} & {*vars(m), *vars(m.assigner)} for m in heads) and 'preprocess' not in vars(runner.model)


def test_watched_or_not_it_is_the_same_training(tmp_path):
    hooks = [[], [AssignmentInspectorHook()], [AssignmentInspectorHook(), TrainingMonitor()], [TrainingMonitor(hz=float('inf'), share=float('inf')), AssignmentInspectorHook()]]
    plain, *watched = [trained(tmp_path / str(n), 'faster_rcnn', own) for n, own in enumerate(hooks)]
    losses = [k for k in plain.buffer.names() if 'loss' in k]
    assert len(losses) == 5 and len(plain.buffer.values('loss')) == 4
    for runner in watched:
        for k in losses: assert runner.buffer.values(k) == plain.buffer.values(k), k
        assert all(torch.equal(v, runner.model.state_dict()[k]) for k, v in plain.model.state_dict().items())


def test_opened_in_mid_training_it_leaves_the_other_listeners_alone(tmp_path, truth):
    inspector, monitor = AssignmentInspectorHook(), TrainingMonitor(hz=float('inf'), share=float('inf'))
    class Curious(TrainingMonitor):
        "Opens the inspector after every step."
        def __init__(self): super().__init__(show=False); self.seen = []
        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            self.seen.append((inspector.inspector(1).traces[0].gt_inds, truth[-1][2][1]))
    runner = trained(tmp_path, 'retinanet', [inspector, monitor, curious := Curious()])
    assert len(curious.seen) == 4 and all(torch.equal(a, b) for a, b in curious.seen)
    assert [s for s, _ in monitor.history['objects without a positive']] == [0, 1, 2, 3] == [s for s, _ in monitor.history['positives of level 0']]
    assert 'assign' not in vars(runner.model.bbox_head.assigner)


