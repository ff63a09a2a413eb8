"What an explorer's controls, boxes and filters say, it also says by traits of their own names; both ways, and never twice."
import numpy as np
import pytest
import torch

from learndet.core.samples import CLASSES, make_scene
from learndet.data.transforms.cropping import RandomCrop
from learndet.data.transforms.loading import scene_results
from learndet.evaluation.average_precision import FlatPredictions, flat_ground_truth
from learndet.structures.nms import NMS
from learndet.task_modules.assigners.max_iou_assigner import MaxIoUAssigner
from learndet.task_modules.coders.delta_xywh_coder import DeltaXYWHBBoxCoder
from learndet.task_modules.prior_generators.anchor_generator import AnchorGenerator
from learndet.task_modules.prior_generators.ssd_anchor_generator import SSDAnchorGenerator
from learndet.visualization.anchor_explorer import explore_priors
from learndet.visualization.assignment_inspector import explore_assignment, limits_of
from learndet.visualization.coder_explorer import explore_coder
from learndet.visualization.loss_explorer import explore_losses
from learndet.visualization.nms_explorer import explore_nms
from learndet.visualization.pipeline_explorer import explore_pipeline
from learndet.visualization.prediction_explorer import ERRORS, OUTCOMES, PredictionExplorer, explore_predictions

SCENE = make_scene(5)
GTS = torch.tensor(SCENE.bboxes).float()
PRIOR, BOX = torch.tensor([60., 50, 124, 114]), torch.tensor([80., 60, 190, 120])


def suppression():
    rng, which = torch.Generator().manual_seed(1), torch.arange(24) % len(GTS)
    boxes = GTS[which] + .13 * (GTS[:, 2:] - GTS[:, :2])[which].repeat(1, 2) * torch.randn(24, 4, generator=rng)
    return explore_nms(SCENE.img, boxes, torch.rand(24, generator=rng) * .9 + .05, torch.tensor(SCENE.labels)[which], NMS(.5), CLASSES)


def predictions(ids=None):
    scenes, rng = [make_scene(seed) for seed in range(4)], np.random.RandomState(0)
    gt = flat_ground_truth([dict(bboxes=s.bboxes, labels=s.labels) for s in scenes], CLASSES)
    if ids: gt.img_ids = ids
    which = np.repeat(np.arange(len(gt)), 2)
    pred = FlatPredictions(gt.img_index[which], gt.bboxes[which] + 4 * rng.randn(len(which), 4), rng.rand(len(which)), gt.labels[which])
    return explore_predictions(gt, pred, [s.img for s in scenes])


def pipeline(): return explore_pipeline([RandomCrop((90, 90))], scene_results(5), CLASSES)
def anchors(): return explore_priors(AnchorGenerator([16, 32], [1.], [4.]), SCENE.img, GTS)
def inspector():
    levels = AnchorGenerator([16, 32], [.5, 1., 2.], [4.]).grid_priors([(12, 16), (6, 8)])
    return explore_assignment(SCENE.img, torch.cat(levels), GTS, MaxIoUAssigner(.5, .4, min_pos_iou=.4), [len(p) for p in levels])
def coder(): return explore_coder(DeltaXYWHBBoxCoder(), PRIOR, BOX)
def losses(): return explore_losses(PRIOR, BOX)


# widget, trait, value, what mirrors it: a key of params or a function, what is drawn with it
CASES = [(suppression, 'iou_thr', .8, 'iou_threshold', 'panels'), (suppression, 'score_thr', .5, 'score_thr', 'state'), (suppression, 'step', 1, 'step', 'state'),
         (predictions, 'iou_thr', .75, 'iou_thr', 'panels'), (predictions, 'score_thr', .6, 'score_thr', 'state'),
         (predictions, 'image_id', 2, 'image', 'image'), (predictions, 'error_types', ['missed'], lambda w: [OUTCOMES[k]['name'] for k in w.show if k not in (0, 7)] == ['missed object'], 'show'),
         (pipeline, 'step', 0, 'step', 'image'), (pipeline, 'seed', 7, 'seed', 'boxes'),
         (anchors, 'scales', [2., 4.], 'scales', 'boxes'), (anchors, 'ratios', [.5, 2.], 'ratios', 'boxes'), (anchors, 'cell', [1, 2, 3], lambda w: w.cell_of(w.hovered) == [1, 2, 3], 'hovered'),
         (inspector, 'step', 1, 'step', 'state'),
         (coder, 'prior', [50., 40, 100, 90], lambda w: w.array('gts')[0].tolist() == [50, 40, 100, 90], 'gts'), (coder, 'gt', [50., 40, 100, 90], lambda w: w.array('gts')[1].tolist() == [50, 40, 100, 90], 'boxes'),
         (coder, 'deltas', [0., 0, 0, 0], lambda w: np.allclose(*w.array('gts')), 'gts'),
         (losses, 'pred', [50., 40, 100, 90], lambda w: w.array('gts')[1].tolist() == [50, 40, 100, 90], 'panels')]
NAMES = [f'{make.__name__}.{trait}' for make, trait, *_ in CASES]


@pytest.mark.parametrize('make, trait, value, mirrored, drawn', CASES, ids=NAMES)
def test_a_trait_set_from_python_redraws(make, trait, value, mirrored, drawn):
    w = make()
    before, heard = getattr(w, drawn), []
    assert getattr(w, trait) != value and w.trait_metadata(trait, 'sync')
    w.observe(lambda change: heard.append(change.new), drawn)
    setattr(w, trait, value)
    assert getattr(w, trait) == value and not w.message and heard and getattr(w, drawn) != before
    assert mirrored(w) if callable(mirrored) else w.params[mirrored] == value
    seq = w.seq
    setattr(w, trait, value)                                    # no news: nothing is done again
    assert w.seq == seq


@pytest.mark.parametrize('make, trait, value, mirrored, drawn', CASES, ids=NAMES)
def test_a_trait_set_by_the_page_does_the_same(make, trait, value, mirrored, drawn):
    "What a message of the page does: `set_state`."
    one, other = make(), make()
    one.set_state({trait: value})
    setattr(other, trait, value)
    assert getattr(one, trait) == value and getattr(one, drawn) == getattr(other, drawn) and one.params == other.params


@pytest.mark.parametrize('make, trait, value, key', [c[:4] for c in CASES if isinstance(c[3], str)], ids=[n for n, c in zip(NAMES, CASES) if isinstance(c[3], str)])
def test_a_control_of_the_page_moves_the_trait_and_comes_back(make, trait, value, key):
    w, heard = make(), []
    start = getattr(w, trait)
    w.observe(lambda change: heard.append(change.new), trait)
    w.set_state(dict(params={**w.params, key: value}))
    assert heard == [value]                                     # once
    kept = w.state_dict()
    setattr(w, trait, start)
    w.load_state_dict(kept)
    assert getattr(w, trait) == value


def test_dragging_filtering_and_rolling_move_traits_too():
    w = coder()
    w.set_state(dict(gts=memoryview(np.array([[0, 0, 10, 10], [0, 0, 20, 20]], '<f4').tobytes())))
    assert (w.prior, w.gt) == ([0, 0, 10, 10], [0, 0, 20, 20]) and w.deltas == pytest.approx([.5, .5, np.log(2), np.log(2)])
    w = predictions()
    w.set_state(dict(show=[0, 2, 5, 7]))
    assert w.error_types == ['localization', 'background']
    w = pipeline()
    w.roll(); w.roll()
    assert w.seed == w.traced == 2
    w.seed = 0
    w.roll()
    assert w.seed == w.traced == 1


def test_links_of_traits_settle():
    "Two widgets whose thresholds follow each other, and one whose listener sets another trait of its own."
    traitlets = pytest.importorskip('traitlets', reason='traitlets is not installed: pip install traitlets')
    a, b = suppression(), suppression()
    traitlets.link((a, 'iou_thr'), (b, 'iou_thr'))
    b.change(iou_threshold=.3)
    assert a.params['iou_threshold'] == .3 and a.keep == b.keep
    a.observe(lambda change: setattr(a, 'score_thr', change.new), 'iou_thr')
    b.iou_thr = .6
    assert (a.score_thr, a.params['score_thr'], a.params['iou_threshold']) == (.6, .6, .6)


def test_results_and_nonsense_are_refused_and_leave_no_trace():
    w = suppression()
    keep = list(w.keep)
    with pytest.raises(AttributeError, match='keep is a result of NMSExplorer'): w.keep = [1]
    assert w.keep == keep == w.kept.tolist()
    w.step = 10_000
    assert w.step == len(w.taken) + 1 and w.params['step'] == 10_000              # behind the last one there is the result
    w = inspector()
    assert w.steps == list(w.traces[0].steps)
    with pytest.raises(AttributeError, match='steps is a result'): w.steps = []
    w = predictions()
    with pytest.raises(ValueError, match=r"no kind of error \['mist'\]; there are classification"): w.error_types = ['mist']
    with pytest.raises(ValueError, match='no image 99 among 4'): w.image_id = 99
    assert w.error_types == list(ERRORS) and w.image_id == 0
    w = coder()
    with pytest.raises(ValueError, match='got 3 numbers'): w.prior = [1, 2, 3]
    with pytest.raises(ValueError, match='DeltaXYWHBBoxCoder codes a box in 4 numbers, got 2'): w.deltas = [1., 2]
    assert w.prior == PRIOR.tolist() and len(w.deltas) == 4
    w = explore_priors(SSDAnchorGenerator([16, 32], [[2], [2, 3]], min_sizes=[30, 60], max_sizes=[60, 111], scale_major=False), SCENE.img)
    with pytest.raises(ValueError, match=r"no control \['scales'\]"): w.scales = [4.]
    assert w.scales == w.ratios == []


def test_a_picture_is_called_what_the_dataset_calls_it():
    w = predictions(['cat', 'dog', 'owl', 'eel'])
    w.image_id = 'owl'
    assert (w.params['image'], w.shown) == (2, 2)
    w.change(image=1)
    assert w.image_id == 'dog'


def test_predictions_take_a_dataset_as_it_is(tmp_path):
    from learndet.core.samples import samples_dir
    from learndet.data.coco import CocoDataset
    dataset = CocoDataset(ann_file='train.json', data_root=str(samples_dir()), data_prefix=dict(img='JPEGImages'), pipeline=[])
    w = PredictionExplorer(dataset, FlatPredictions(np.zeros(0, int), np.zeros((0, 4)), np.zeros(0), np.zeros(0, int)))
    assert w.picture.shape[2] == 3 and w.image_id == dataset.ground_truth().img_ids[0]
    with pytest.raises(ValueError, match='give pictures'): PredictionExplorer(dataset.ground_truth(), w.models[''])


def test_recall_is_told_at_more_than_one_overlap():
    w = anchors()
    panel = next(p for p in w.panels if p['title'].startswith('Found'))
    assert panel['columns'][2:] == ['>= 0.5', '>= 0.7']
    areas = (GTS[:, 2:] - GTS[:, :2]).prod(1).sqrt()
    for span, n, *recalls in panel['rows']:
        low, high = map(int, span.split(' to '))
        here = w.best[(areas >= low) & (areas < high)]
        assert n == len(here) and recalls == [f'{(here >= t).float().mean():.0%}' for t in (.5, .7)]


def test_an_overlap_just_below_a_threshold_is_not_rounded_onto_it():
    gts, thr = torch.tensor([[0., 0, 100, 100]]), .5
    priors = torch.tensor([[0., 0, 100, 49.996], [0., 0, 100, 100], [0., 0, 100, 30]])
    assigner = MaxIoUAssigner(thr, .4, match_low_quality=False)
    assert limits_of(assigner)[:2] == [.5, .4]
    w = explore_assignment(None, priors, gts, assigner)
    said = []
    for w.selected_prior in (0, 1, 2): said.append(w.panels[0]['text'].splitlines()[-1])
    assert said == ['IoU: object 0 0.49996', 'IoU: object 0 1.000', 'IoU: object 0 0.300']


def test_a_table_keeps_clear_of_the_next_title():
    "In a still picture: no letter of a panel reaches the title of the panel below it."
    w, rows = suppression(), [[f'row {k}', k] for k in range(12)]
    for panels in ([dict(title=f'Table {k}', columns=['', 'n'], rows=rows) for k in range(7)],
                   [dict(title=f'Text {k}', text=' '.join(['words'] * 40)) if k % 2 else dict(title=f'Table {k}', columns=['', 'n'], rows=rows) for k in range(8)]):
        w.put(panels=panels)
        fig = w.figure()
        fig.draw_without_rendering()
        axes = fig.axes[-len(panels):]
        for above, below in zip(axes, axes[1:]): assert above.texts[0].get_window_extent().y0 > below._left_title.get_window_extent().y1


def test_traits_of_a_page_without_a_kernel_follow_its_scenes(open_widget):
    page = open_widget(pipeline())
    assert [page.get('step'), page.get('params')['step'], page.get('seed')] == [1, 1, 0]
    page.root.locator('[data-scene=next]').click(); page.settle()
    assert [page.get('step'), page.get('params')['step']] == [0, 0] and 'before the first step' in page.root.locator('.caption').text_content()
    assert page.root.locator('[data-name=step]').is_disabled()
