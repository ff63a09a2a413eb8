"The explorer of predictions: its numbers are the evaluation's, and every number leads to its pictures."
import numpy as np
import pytest
import torch

from learndet.core.samples import CLASSES, coco_file, make_scene, samples_dir
from learndet.data.coco import CocoDataset
from learndet.evaluation.average_precision import FlatPredictions, flat_ground_truth
from learndet.evaluation.coco_metric import coco_evaluate
from learndet.evaluation.error_kinds import CORRECT, KINDS, confusion_matrix, error_kinds
from learndet.structures.instance_data import DetDataSample, InstanceData
from learndet.visualization.box_canvas import HIDDEN
from learndet.visualization.prediction_explorer import FOUND_OBJECT, MISSED_OBJECT, explore_predictions

SCENES = [make_scene(seed) for seed in range(8)]
GT = flat_ground_truth([dict(bboxes=s.bboxes, labels=s.labels) for s in SCENES], CLASSES)
PICTURES = [s.img for s in SCENES]


def careless(seed=0, shift=.12):
    rng = np.random.RandomState(seed)
    which = np.repeat(np.arange(len(GT)), rng.randint(0, 3, len(GT)))
    boxes = GT.bboxes[which] + shift * np.tile(GT.bboxes[which, 2:] - GT.bboxes[which, :2], 2) * rng.randn(len(which), 4)
    labels = np.where(rng.rand(len(which)) < .3, rng.randint(3, size=len(which)), GT.labels[which])
    return FlatPredictions(GT.img_index[which], boxes, rng.rand(len(which)), labels)


PRED = careless()


def explorer(**more): return explore_predictions(GT, PRED, PICTURES, **more)


def panel(w, title): return next(p for p in w.panels if p['title'].startswith(title))


def test_every_threshold_shows_the_evaluations_own_kinds():
    w = explorer()
    for params in (dict(), dict(score_thr=.6), dict(iou_thr=.7), dict(image=3), dict(score_thr=0.)):
        w.change(**params)
        errors, thr, image = error_kinds(GT, PRED, w.params['iou_thr']), w.params['score_thr'], w.params['image']
        d, g, state = PRED.img_index == image, GT.img_index == image, w.array('state')[0]
        assert state[g.sum():].tolist() == np.where(PRED.scores[d] >= thr, errors.kind[d], HIDDEN).tolist()
        assert state[:g.sum()].tolist() == np.where(errors.found(thr)[g], FOUND_OBJECT, MISSED_OBJECT).tolist()
        row, rates = panel(w, 'At this')['rows'][0], errors.rates(thr)
        assert row[1:4] == [f'{rates[k]:.3f}' for k in ('precision', 'recall', 'f1')] and row[4] == f'{coco_evaluate(GT, PRED).ap():.3f}'
        here = panel(w, 'Precision')['series'][-1]
        assert np.allclose([here['x'][0], here['y'][0]], [rates['recall'], rates['precision']])
        assert [r[1:] for r in panel(w, 'Confusion')['rows']] == confusion_matrix(GT, PRED, thr, w.params['iou_thr']).tolist()
        assert np.array_equal(w.picture, PICTURES[image])


def test_a_number_leads_to_its_pictures():
    w = explorer(score_thr=0.)
    errors = error_kinds(GT, PRED)
    for kind in KINDS[1:6]:
        expected = set(PRED.img_index[errors.kind == KINDS.index(kind)].tolist())
        assert set(w.pictures_of_kind(kind)) == expected
    matrix = confusion_matrix(GT, PRED, 0.)
    for (r, c), n in np.ndenumerate(matrix):
        images = w.pictures_of_cell(r, c)
        assert len(images) <= n and (n == 0) == (not images)
    w.clicked = ['Kinds', [row[0] for row in panel(w, 'Kinds')['rows']].index('duplicate'), 0, 1]
    assert w.params['image'] == w.pictures_of_kind('duplicate')[0] and panel(w, 'Pictures')['title'] == 'Pictures: duplicate'
    w.clicked = [panel(w, 'Pictures')['title'], 1, 0, 2]
    assert w.params['image'] == w.pictures_of_kind('duplicate')[1]
    w.clicked = ['Confusion', 3, 1, 3]                                  # background called circle
    assert panel(w, 'Pictures')['title'] == 'Pictures: background called circle'


def test_words_for_objects_and_detections_of_both_models():
    w = explore_predictions(GT, dict(a=PRED, b=careless(1)), PICTURES, score_thr=0.)
    w.change(image=5)
    G, A = len(w.own_gts), len(w.own_dets[0])
    assert w.array('state').shape == (2, G + A + len(w.own_dets[1])) and (w.array('state')[0][G + A:] == HIDDEN).all()
    for box in range(len(w.array('boxes'))):
        text = w.about(box)
        s = 0 if box < G + A else 1
        if box < G: assert text.startswith(f'object {box}: ')
        else:
            d = w.own_dets[s][box - G - s * A]
            assert text.startswith(f'{"ab"[s]} detection: ') and KINDS[w.errors[s].kind[d]] in text and f'{list(w.models.values())[s].scores[d]:.3f}' in text
    w.selected_prior = G
    assert w.panels[0]['text'] == w.about(G)
    w.change(costs=True)
    assert panel(w, 'Kinds')['columns'] == ['', 'a', 'b', 'AP lost a', 'AP lost b'] and not w.message
    w.to_png()


def test_a_dataset_and_its_samples_as_a_model_gives_them():
    dataset = CocoDataset(ann_file='val.json', data_root=str(samples_dir()), data_prefix=dict(img='JPEGImages'), test_mode=True)
    gt, samples = dataset.ground_truth(), []
    for i, img_id in enumerate(gt.img_ids):
        sample, own = DetDataSample(metainfo=dict(img_id=img_id)), (gt.img_index == i) & ~gt.ignore
        sample.pred_instances = InstanceData(bboxes=torch.tensor(gt.bboxes[own]), scores=torch.full((own.sum(),), .9), labels=torch.tensor(gt.labels[own]))
        samples.append(sample)
    w = explore_predictions(dataset, samples)
    assert panel(w, 'At this')['rows'][0][1:4] == ['1.000'] * 3 and (w.errors[0].kind == CORRECT).all()
    for image in range(len(gt.img_ids)):
        w.change(image=image)
        assert w.picture.shape[:2] == tuple(gt.image_shapes[image][:2]) and not w.message
    assert coco_file('val').exists()


@pytest.mark.parametrize('pictures', [1, 3])
def test_nothing_found_and_nothing_to_find(pictures):
    gt = flat_ground_truth([dict(bboxes=[], labels=[])] * pictures, CLASSES)
    none = FlatPredictions(np.zeros(0, int), np.zeros((0, 4)), np.zeros(0), np.zeros(0, int))
    w = explore_predictions(gt, none, PICTURES)
    w.change(score_thr=.5, iou_thr=.7, costs=True, image=pictures - 1)
    assert not w.message
    w.to_png(), w.to_html()
    with pytest.raises(ValueError, match='without images'): explore_predictions(flat_ground_truth([], CLASSES), none, PICTURES)


def test_many_classes_list_the_largest_confusions():
    many = tuple(f'class {k}' for k in range(20))
    gt = flat_ground_truth([dict(bboxes=s.bboxes, labels=s.labels + 9) for s in SCENES], many)
    w = explore_predictions(gt, FlatPredictions(PRED.img_index, PRED.bboxes, PRED.scores, PRED.labels), PICTURES, score_thr=0.)
    row = panel(w, 'Confusion')['rows'][0]
    w.clicked = ['Confusion', 0, 2, 1]
    assert panel(w, 'Pictures')['title'] == f'Pictures: {row[0]} called {row[1]}' and panel(w, 'Pictures')['rows']


def test_page_has_filters_words_and_scenes(open_widget):
    widget = explorer()
    w = open_widget(widget)
    state = widget.array('state')[0]
    shown = int((state != HIDDEN).sum())
    assert w.visible() == shown and 'missed object' in w.root.text_content()
    w.filter('show.7').uncheck(); w.settle()
    assert w.visible() == shown - int((state == FOUND_OBJECT).sum())
    w.filter('show.7').check()
    x1, y1, x2, y2 = widget.array('boxes')[0]
    w.click((x1 + x2) / 2, (y1 + y2) / 2)
    picked = w.get('selected_prior')
    assert picked >= 0 and w.panel('Why').text_content() == 'Why' + widget.about(picked)
    before = w.js("w.model.get('panels')[0].rows[0].join()")
    w.root.locator('[data-scene=next]').click(); w.settle()
    assert w.js("w.model.get('panels')[0].rows[0].join()") != before and 'score from 0.5' in w.root.locator('.caption').text_content()
    for _ in range(len(widget.scenes) - 2): w.root.locator('[data-scene=next]').click()
    w.settle()
    assert 'most goes wrong' in w.root.locator('.caption').text_content() and w.js('w.data().n') > 0
