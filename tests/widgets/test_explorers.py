"The explorers of priors and assignments without a browser: their numbers are the library's."
import numpy as np
import pytest
import torch

from learndet.core.samples import make_scene
from learndet.engine.hooks import Hook
from learndet.structures.instance_data import DetDataSample, InstanceData
from learndet.structures.overlaps import bbox_overlaps
from learndet.task_modules.assigners.assign_result import IGNORE
from learndet.task_modules.assigners.atss import ATSSAssigner
from learndet.task_modules.assigners.max_iou_assigner import MaxIoUAssigner
from learndet.task_modules.assigners.sim_ota import SimOTAAssigner
from learndet.task_modules.assigners.task_aligned import TaskAlignedAssigner
from learndet.task_modules.prior_generators.anchor_generator import AnchorGenerator
from learndet.task_modules.prior_generators.fit_anchors import anchor_fit, evolve_anchors, fit_anchors, kmeans_anchors
from learndet.visualization.anchor_explorer import explore_priors
from learndet.visualization.assignment_inspector import (AssignmentInspector, AssignmentInspectorHook, explore_assignment, handles,
                                                         inputs_of, made_anew, odd_priors)
from learndet.zoo.faster_rcnn import faster_rcnn

SCENE = make_scene(5)
GTS = torch.tensor(SCENE.bboxes).float()
GENERATOR, SIZES = AnchorGenerator([8, 16, 32], [.5, 1., 2.], [4.]), [(24, 32), (12, 16), (6, 8)]
LEVELS = GENERATOR.grid_priors(SIZES)
PRIORS, PARTS = torch.cat(LEVELS), [len(level) for level in LEVELS]


def inspector(**more): return explore_assignment(SCENE.img, PRIORS, GTS, MaxIoUAssigner(.5, .4, min_pos_iou=.4), PARTS, **more)


def test_fitting_does_not_get_worse_and_finds_what_is_there():
    rng = torch.Generator().manual_seed(0)
    shapes = torch.tensor([[10., 20], [50, 40], [100, 200]])
    sizes = (shapes[torch.randint(3, (200,), generator=rng)] * (1 + .02 * torch.randn(200, 2, generator=rng)))
    for how in ('k-means', 'differential_evolution'): assert torch.allclose(fit_anchors(sizes, 3, how), shapes, rtol=.03)
    assert anchor_fit(sizes, evolve_anchors(sizes, 2)) >= anchor_fit(sizes, kmeans_anchors(sizes, 2))
    with pytest.raises(ValueError, match='2 anchors for 1 objects'): kmeans_anchors(torch.tensor([[0., 5], [3, 4]]), 2)


def test_priors_are_the_generators_and_change_with_its_arguments():
    w = explore_priors(GENERATOR, SCENE.img, GTS)
    assert torch.equal(torch.tensor(w.array('boxes')), PRIORS)
    assert np.allclose(w.array('score'), bbox_overlaps(PRIORS, GTS).amax(1))
    w.change(strides=[16., 32.], ratios=[1.], scales=[2., 4.])
    other = torch.cat(AnchorGenerator([16., 32.], [1.], [2., 4.]).grid_priors([(12, 16), (6, 8)]))
    assert torch.equal(torch.tensor(w.array('boxes')), other) and len(w.level_names) == 2 and w.levels == [0, 1]
    w.change(ratios=[0.])
    assert 'are positive' in w.message and torch.equal(torch.tensor(w.array('boxes')), other)
    assert w.bake()['scenes'][1][0].startswith('level 0 (stride 16): 12 x 16 cells')


def test_a_picture_without_objects_has_priors_too():
    w = explore_priors(GENERATOR, SCENE.img)
    assert [c['name'] for c in w.controls] == ['strides', 'scales', 'ratios'] and len(w.panels) == 1
    w.to_png()


def test_the_inspector_shows_the_assigners_own_answer():
    w = inspector()
    for change in (dict(), dict(pos_iou_thr=.6), dict(neg_iou_thr=.2), dict(match_low_quality=False)):
        w.change(**change)
        a = w.assigners[0]
        codes = MaxIoUAssigner(a.pos_iou_thr, a.neg_iou_thr[1], a.min_pos_iou, match_low_quality=a.match_low_quality).assign(PRIORS, GTS).gt_inds
        state = w.array('state')[0]
        assert (state == 1).tolist() == (codes == IGNORE).tolist() and np.isin(state, [2, 3]).tolist() == (codes > 0).tolist()
        assert w.array('label')[0].tolist() == (codes.clamp(min=0) - 1).tolist()
        assert w.array('gt_alerts').tolist() == [i in w.traces[0].orphans for i in range(len(GTS))]


def test_replay_counts_and_words():
    w = inspector()
    rules = next(p for p in w.panels if p['title'] == 'Rules')
    assert [row[0] for row in rules['rows']] == list(w.traces[0].steps) and rules['mark'] == 4
    w.clicked = ['Rules', 1, 0, 1]
    assert w.params['step'] == 1 and set(w.array('state')[0].tolist()) == {0, 1}
    w.change(step=4)
    prior = int((w.traces[0].gt_inds == IGNORE).nonzero()[0])
    w.selected_prior, w.selected_gt = prior, 5
    assert w.panels[0]['text'].startswith(w.traces[0].why(prior)) and w.traces[0].why_not(prior, 5) in w.panels[0]['text']
    assert w.panels[1]['text'] == w.traces[0].why_object(5)
    baked = w.bake()
    assert baked['notes'][prior] == w.traces[0].why(prior) and baked['selected_prior'] == prior
    assert not any(p['title'] == 'Why' for p in baked['panels']) and w.panels[0]['title'] == 'Why'


def test_two_assigners():
    w = explore_assignment(SCENE.img, PRIORS, GTS, [MaxIoUAssigner(.5, .4), MaxIoUAssigner(.6, .3)], PARTS)
    a, b = (t.gt_inds for t in w.traces)
    assert w.array('state').shape == (2, len(PRIORS)) and w.panes == ['A: MaxIoUAssigner', 'B: MaxIoUAssigner']
    w.change(view='difference')
    state = w.array('state')[0]
    assert (state == 1).sum() == ((a == b) & (a > 0)).sum() and (state == 2).sum() == ((a > 0) & (b <= 0)).sum()
    assert (state == 3).sum() == ((b > 0) & (a <= 0)).sum() and 'Jaccard' in w.panes[0] and w.show == [0, 1, 2, 3, 4]
    w.change(view='B', **{'B.pos_iou_thr': .5, 'B.neg_iou_thr': .4})
    assert len(w.array('state')) == 1 and all(row['agree'] == 1 for row in w.compare())
    baked = w.bake()
    assert len(baked['scenes'][1][1]['styles']) == 5 and len(baked['scenes'][0][1]['styles']) == 4


class Centre:
    "A stranger's assigner: priors whose centre lies in an object; the smallest wins. It wants to be told the levels."
    def __init__(self, shrink=.5, only_first=False): self.shrink, self.only_first = shrink, only_first

    def assign(self, priors, gt_bboxes): return self.trace(priors, gt_bboxes, [len(priors)])

    def trace(self, priors, gt_bboxes, num_level_priors):
        x, y = ((priors[:, :2] + priors[:, 2:]) / 2).T
        start, codes = torch.zeros(len(priors), dtype=torch.long), torch.zeros(len(priors), dtype=torch.long)
        for i in ((gt_bboxes[:, 2:] - gt_bboxes[:, :2]).prod(1)).argsort(descending=True).tolist():
            (cx, cy), (w, h) = ((gt_bboxes[i, :2] + gt_bboxes[i, 2:]) / 2).tolist(), ((gt_bboxes[i, 2:] - gt_bboxes[i, :2]) * self.shrink / 2).tolist()
            codes[((x - cx).abs() < w) & ((y - cy).abs() < h)] = i + 1
        if self.only_first: codes[num_level_priors[0]:] = 0
        return CentreTrace(dict(start=start, inside=codes), len(gt_bboxes))


class CentreTrace:
    def __init__(self, steps, n): self.steps, self.gt_inds, self.n = steps, steps['inside'], n
    num_pos = property(lambda self: [int((self.gt_inds == i + 1).sum()) for i in range(self.n)])
    orphans = property(lambda self: [i for i, n in enumerate(self.num_pos) if n == 0])
    def why(self, prior): return f'prior {prior} lies where it lies'
    def why_not(self, prior, obj): return f'prior {prior} is not in object {obj}'
    def why_object(self, obj): return f'object {obj} has {self.num_pos[obj]}'


def test_any_assigner_with_a_trace_will_do():
    w = explore_assignment(SCENE.img, PRIORS, GTS, [Centre(), MaxIoUAssigner(.5, .4)], PARTS)
    assert [c['name'] for c in w.controls][:2] == ['A.shrink', 'A.only_first']
    few = sum(w.traces[0].num_pos)
    w.change(**{'A.shrink': 1., 'A.only_first': True})
    assert sum(w.traces[0].num_pos) > few and w.traces[0].gt_inds[PARTS[0]:].max() == 0
    w.selected_prior = 3
    assert w.panels[0]['text'].startswith('prior 3 lies where it lies')
    for step in range(5): w.change(step=step)                   # two rules beside five
    w.to_png()
    assert inputs_of(Centre(), dict(num_level_priors=PARTS, gt_labels=GTS)) == dict(num_level_priors=PARTS)
    with pytest.raises(ValueError, match='int has no trace'): AssignmentInspector(3, PRIORS, GTS)


@pytest.mark.parametrize('gts', [GTS[:0], GTS[:1]])
def test_few_objects_and_one_level(gts):
    w = explore_assignment(SCENE.img, PRIORS[:50], gts, MaxIoUAssigner(.5, .4))
    w.selected_prior = 7
    assert w.panels[0]['text'].startswith('prior 7 is negative')
    w.to_png(), w.bake()


def test_odd_priors_of_assigners_without_a_threshold():
    gts = torch.tensor([[0., 0, 10, 10], [0, 0, 10, 9]])
    priors = torch.tensor([[0., 0, 10, 10], [0, 0, 10, 9.4], [50, 50, 60, 60]])
    forced, ambiguous = odd_priors(priors, gts, torch.tensor([1, 1, 2]))
    assert forced.tolist() == [False] * 3 and ambiguous.tolist() == [False, True, False]


def test_another_picture_is_picked_and_thresholds_stay():
    scenes = [make_scene(seed) for seed in (5, 8)]
    half = [(12, 16), (6, 8), (3, 4)]
    small, parts = GENERATOR.grid_priors(half), [h * w * 3 for h, w in half]
    other = dict(priors=torch.cat(small), gt_bboxes=torch.zeros(0, 4), img=scenes[1].img[:96, :128], num_level_priors=parts, name='empty')
    w = AssignmentInspector(MaxIoUAssigner(.5, .4, min_pos_iou=.4), PRIORS, GTS, SCENE.img, PARTS, others=[other])
    assert w.controls[0]['words'] == ['0', 'empty'] and 'image' not in inspector().params
    w.selected_prior, w.selected_gt, before = 7, 2, w.array('state').copy()
    w.change(neg_iou_thr=.3); w.change(image=1)
    assert len(w.array('boxes')) == sum(parts) == len(w.traces[0].gt_inds) and w.size == [96, 128] and w.picture.shape == (96, 128, 3)
    assert (w.selected_prior, w.selected_gt, len(w.objects), w.params['neg_iou_thr'], w.message) == (-1, -1, 0, .3, '')
    assert not w.array('state').any() and not any(p['title'] == 'Careful' for p in w.panels)
    w.to_png(), w.bake()
    w.change(image=0, neg_iou_thr=.4)
    assert (w.array('state') == before).all() and w.size == list(SCENE.img.shape[:2])


def test_handles_skip_what_is_off():
    names = [c['name'] for c in handles(MaxIoUAssigner(.5, .4))]
    assert 'gpu_assign_thr' not in names and 'ignore_iof_thr' not in names and 'neg_iou_thr' in names
    assert made_anew(MaxIoUAssigner(.5, (.1, .4)), dict(neg_iou_thr=.3)).neg_iou_thr == (.1, .3)


def test_hook_opens_both_stages_of_a_batch_and_leaves_the_training_as_it_was():
    from learndet.data.preprocessor import DetDataPreprocessor
    from learndet.models.backbones.resnet import ResNet
    torch.manual_seed(0)
    model = faster_rcnn(num_classes=3, backbone=ResNet(18), channels=32, fc_out_channels=64, num_proposals=50,
                        data_preprocessor=DetDataPreprocessor([120.] * 3, [60.] * 3, bgr_to_rgb=True, pad_size_divisor=32))
    def sample(n):
        s = DetDataSample(metainfo=dict(img_shape=SCENE.img.shape[:2]))
        s.gt_instances = InstanceData(bboxes=GTS[:n], labels=torch.tensor(SCENE.labels)[:n])
        return s
    picture = torch.tensor(SCENE.img[..., ::-1].copy()).permute(2, 0, 1)
    hook = AssignmentInspectorHook()
    assert isinstance(hook, Hook)
    class Runner: pass
    runner = Runner(); runner.model = model
    hook.after_train_iter(runner, 0, dict(inputs=[picture, picture], data_samples=[sample(6), sample(0)]))
    before, rng = {k: v.clone() for k, v in model.state_dict().items()}, torch.random.get_rng_state()
    first, second, empty = hook.inspector(), hook.inspector(stage=1), hook.inspector(image=1)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items()) and torch.equal(torch.random.get_rng_state(), rng) and model.training
    assert len(first.parts) == 5 and first.traces[0].num_pos and len(second.parts) == 1 and len(second.priors) <= 56
    assert len(empty.objects) == 0 and not any(p['title'] == 'Careful' for p in empty.panels)
    expected = model.rpn_head.assigner.assign(first.priors, GTS, prior_valid=first.inputs.get('prior_valid')).gt_inds
    assert torch.equal(first.traces[0].gt_inds, expected)
    assert np.abs(first.picture.astype(int) - SCENE.img).max() <= 1
    assert len(hook.inspector(other=MaxIoUAssigner(.5, .4)).traces) == 2


OTHERS = dict(
    atss=lambda: (ATSSAssigner(topk=9), PRIORS, {}),
    sim_ota=lambda: (SimOTAAssigner(), POINTS, PREDICTED),
    task_aligned=lambda: (TaskAlignedAssigner(topk=13), PRIORS, PREDICTED))
POINTS = torch.cat([torch.cat([(level[:, :2] + level[:, 2:]) / 2, torch.full((len(level), 2), float(s))], 1) for level, s in zip(LEVELS, (8, 16, 32))])
PREDICTED = dict(gt_labels=torch.tensor(SCENE.labels), bbox_preds=PRIORS, cls_scores=torch.full((len(PRIORS), 3), .3))


@pytest.mark.parametrize('name', OTHERS)
def test_the_other_assigners(name):
    "Levels, points and predictions reach the assigner that asks for them; the picture is its own answer."
    assigner, priors, inputs = OTHERS[name]()
    w = explore_assignment(SCENE.img, priors, GTS, assigner, PARTS, **inputs)
    exact = assigner.trace(priors, GTS, **inputs_of(assigner, dict(inputs, num_level_priors=PARTS)))
    assert w.traces[0].gt_inds.tolist() == exact.gt_inds.tolist() and sum(exact.num_pos) > 0
    w.selected_prior, w.selected_gt = int(exact.gt_inds.argmax()), 0
    assert w.panels[0]['text'].startswith(exact.why(w.selected_prior))
    for c in w.controls:
        if c['kind'] == 'slider': w.change(**{c['name']: c['value']})
    assert w.message == ''
    w.bake()
