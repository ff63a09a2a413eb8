"Metrics meet bad input: unknown ids, NaN, wrong labels, nothing at all (user needs 1g, 13b, 13c, rows 114-118; EVAL-5..22)."
import numpy as np
import pytest
import torch

from learndet.core.registry import build
from learndet.core.samples import coco_file, samples_dir
from learndet.data.coco import CocoDataset
from learndet.evaluation.average_precision import BaseMetric, average_precision, flat_ground_truth, prediction_of
from learndet.evaluation.coco_metric import CocoMetric, eval_recalls, explain_zero
from learndet.evaluation.evaluator import DumpDetResults, Evaluator, load_predictions
from learndet.evaluation.voc_metric import VOCMetric, eval_map, print_map_summary
from learndet.structures.instance_data import DetDataSample, InstanceData

OBJECTS = [dict(img_id='a', bboxes=[[0, 0, 40, 40], [50, 50, 90, 90]], labels=[0, 1], img_shape=(100, 100)),
           dict(img_id='b', bboxes=[[10, 10, 60, 30]], labels=[2], img_shape=(100, 100)), dict(img_id='c', img_shape=(100, 100))]


@pytest.fixture
def gt(): return flat_ground_truth(OBJECTS, ('cat', 'dog', 'bird'))


def sample(img_id, bboxes, labels, scores=None):
    bboxes = np.array(bboxes, float).reshape(-1, 4)
    return dict(img_id=img_id, pred_instances=dict(bboxes=bboxes, labels=labels, scores=np.ones(len(bboxes)) if scores is None else scores))


def perfect(): return [sample(o['img_id'], o.get('bboxes', []), o.get('labels', [])) for o in OBJECTS]


def run(gt, samples, metric=None):
    metric = metric or CocoMetric()
    metric.set_ground_truth(gt), metric.process(samples)
    return metric.evaluate()


def test_perfect_and_absent_classes_and_sizes(gt):
    numbers = run(gt, perfect())
    assert numbers['coco/bbox_mAP'] == pytest.approx(1) and numbers['coco/bbox_mAP_l'] == -1
    assert numbers['coco/bbox_AR@1'] == pytest.approx(1)


@pytest.mark.parametrize('value', [np.nan, np.inf])
def test_nan_is_rejected_and_counted(gt, value, capsys):
    samples = perfect()
    samples[0]['pred_instances']['bboxes'][1, 2] = value
    numbers = run(gt, samples)
    assert 'rejected (images a)' in capsys.readouterr().out and numbers['coco/bbox_mAP'] == pytest.approx(2 / 3)


def test_nan_scores_and_negative_sizes_are_rejected(gt, capsys):
    samples = perfect() + []
    samples[0]['pred_instances']['scores'] = np.array([np.nan, 1])
    samples[1]['pred_instances']['bboxes'][0] = [60, 10, 10, 30]
    assert run(gt, samples)['coco/bbox_mAP'] == pytest.approx(1 / 3)
    out = capsys.readouterr().out
    assert '1 predictions hold NaN or infinity' in out and '1 predictions have a negative width or height' in out


def test_a_box_of_no_size_is_a_miss(gt):
    assert run(gt, [sample('a', [[5, 5, 5, 5]], [0]), *perfect()[1:]])['coco/bbox_mAP'] < .4


def test_unknown_image_id(gt):
    with pytest.raises(KeyError, match=r"2 predicted images are not among the 3.*'x' \(str\)"): run(gt, [sample('x', [], []), sample('y', [], [])])


def test_ids_of_another_type_match_where_that_is_clear(capsys):
    gt = flat_ground_truth([dict(img_id=1, bboxes=[[0, 0, 9, 9]], labels=[0])], ('cat',))
    assert run(gt, [sample('1', [[0, 0, 9, 9]], [0])])['coco/bbox_mAP'] == pytest.approx(1)
    assert 'matched by text' in capsys.readouterr().out
    twins = flat_ground_truth([dict(img_id=1), dict(img_id='1')], ('cat',))
    with pytest.raises(KeyError): run(twins, [sample(1.0001, [], [])])


@pytest.mark.parametrize('label', [3, -1])
def test_a_label_nobody_has(gt, label):
    with pytest.raises(ValueError, match=f'label {label}, but there are 3 classes: cat, dog, bird'): run(gt, [sample('a', [[0, 0, 9, 9]], [label])])


def test_counts_that_disagree(gt):
    with pytest.raises(ValueError, match="image 'a': 1 boxes, 1 scores, 2 labels"): run(gt, [sample('a', [[0, 0, 9, 9]], [0, 1])])


def test_no_predictions_are_zero_and_explained(gt, capsys):
    for samples in ([], [sample(k, [], []) for k in 'abc']):
        numbers = run(gt, samples)
        assert numbers['coco/bbox_mAP'] == 0 and numbers['coco/bbox_mAP_l'] == -1
        assert 'there are no predictions at all' in capsys.readouterr().out


def test_only_crowds_are_nothing_to_find(capsys):
    gt = flat_ground_truth([dict(img_id=0, bboxes_ignore=[[0, 0, 9, 9]], labels_ignore=[0])], ('cat',))
    assert run(gt, [sample(0, [[0, 0, 9, 9]], [0])])['coco/bbox_mAP'] == -1
    assert 'nothing to find' in capsys.readouterr().out


@pytest.mark.parametrize('spoil, words', [
    (lambda b, l: (b, (np.array(l) + 1) % 3), ["'cat' is called 'dog'", "'dog' is called 'bird'", 'order of classes']),
    (lambda b, l: (np.concatenate([b[:, :2], b[:, 2:] - b[:, :2]], 1), l), ['width, height']),
    (lambda b, l: (b / 100, l), ['fractions of the image']),
    (lambda b, l: (b * 2.5, l), ['2.5 times too large']),
    (lambda b, l: (b[:, [1, 0, 3, 2]] * [1, 1, 1, 1], l), ['x and y are swapped']),
    (lambda b, l: (b * 0 + [0, 0, 2, 2], l), ['0% of the objects have any box'])])
def test_zero_is_explained(spoil, words, capsys):
    r = np.random.RandomState(0)
    rows, samples = [], []
    for i in range(8):
        xy, wh = r.randint(0, 50, (4, 2)), r.randint(12, 40, (4, 2)) * [1, 2.]
        b, l = np.concatenate([xy, np.minimum(xy + wh, 100)], 1).astype(float) + [40, 0, 40, 0], r.randint(0, 3, 4)
        rows.append(dict(img_id=i, bboxes=b, labels=l, img_shape=(100, 100))), samples.append(sample(i, *spoil(b, l)))
    numbers = run(flat_ground_truth(rows, ('cat', 'dog', 'bird')), samples)
    out = capsys.readouterr().out
    if numbers['coco/bbox_mAP'] > 0:                                             # an accidental hit: ask directly
        gt = flat_ground_truth(rows, ('cat', 'dog', 'bird'))
        from learndet.evaluation.average_precision import flatten_predictions
        out = ' '.join(explain_zero(gt, flatten_predictions([prediction_of(s) for s in samples], gt)))
    for word in words: assert word in out


def test_an_explanation_of_a_large_set_takes_a_sample():
    r = np.random.RandomState(0)
    rows = [dict(img_id=i, bboxes=np.array([[10, 10, 30, 30.]]) + i % 7, labels=[0], img_shape=(50, 50)) for i in range(2000)]
    gt = flat_ground_truth(rows, ('cat', 'dog'))
    from learndet.evaluation.average_precision import FlatPredictions
    pred = FlatPredictions(np.repeat(np.arange(2000), 50), np.repeat(gt.bboxes, 50, 0) * 2, r.rand(100_000), np.zeros(100_000, int))
    assert '2 times too large' in explain_zero(gt, pred)[0]


def test_images_that_come_twice_count_once(gt, capsys):
    assert run(gt, perfect() + perfect()[:1])['coco/bbox_AR@100'] == pytest.approx(1)
    assert '1 images came twice' in capsys.readouterr().out


def test_items_and_classwise(gt, capsys):
    numbers = run(gt, perfect(), CocoMetric(metric_items=['mAP', 'AR@300', 'AR_m@7'], classwise=True))
    assert set(numbers) == {'coco/bbox_mAP', 'coco/bbox_AR@300', 'coco/bbox_AR_m@7',
                            *(f'coco/bbox_{c}_precision' for c in ('cat', 'dog', 'bird'))}
    assert 'objects  detected' in capsys.readouterr().out
    with pytest.raises(KeyError, match="no number is called 'mAPP'"): run(gt, perfect(), CocoMetric(metric_items=['mAPP']))


def test_summary_has_twelve_lines(gt):
    metric = CocoMetric()
    run(gt, perfect(), metric)
    lines = metric.summary().splitlines()
    assert lines[0] == 'bbox' and len(lines) == 13 and lines[1].endswith('maxDets=100 ] = 1.000')


def test_one_threshold(gt): assert run(gt, perfect(), CocoMetric(iou_thrs=.6))['coco/bbox_mAP_50'] == -1


def test_a_metric_from_a_config_and_its_misspelt_argument():
    assert build(dict(type='mmdet.CocoMetric', metric=['bbox', 'segm'], backend_args=None)).metrics == ['bbox', 'segm']
    with pytest.raises(TypeError, match="did you mean 'classwise'"): build(dict(type='CocoMetric', claswise=True))
    with pytest.raises(ValueError, match="got 'boxes'"): CocoMetric(metric='boxes')


def test_the_ground_truth_can_come_from_the_file():
    path = str(coco_file('val'))
    dataset = CocoDataset(ann_file=path, data_prefix=dict(img=str(samples_dir() / 'JPEGImages')), test_mode=True)
    gt = dataset.ground_truth()
    samples = [sample(k, gt.bboxes[(gt.img_index == i) & ~gt.ignore], gt.labels[(gt.img_index == i) & ~gt.ignore]) for i, k in enumerate(gt.img_ids)]
    metric = CocoMetric(ann_file=path)
    metric.process(samples)
    assert metric.evaluate()['coco/bbox_mAP'] == pytest.approx(1)
    turned = CocoMetric(ann_file=path)
    turned.dataset_meta = dict(classes=('triangle', 'square', 'circle'))           # labels follow the names, not the file
    for s in samples: s['pred_instances']['labels'] = 2 - s['pred_instances']['labels']
    turned.process(samples)
    assert turned.evaluate()['coco/bbox_mAP'] == pytest.approx(1)


def test_samples_of_the_library_and_masks_of_any_kind():
    masks = torch.zeros(1, 100, 100, dtype=torch.bool); masks[0, :40, :40] = True
    found = InstanceData(bboxes=torch.tensor([[0., 0, 40, 40]]), scores=torch.tensor([.5]), labels=torch.tensor([0]), masks=masks)
    gt = flat_ground_truth(OBJECTS[:1], ('cat', 'dog', 'bird'))
    gt.masks = [[[0, 0, 40, 0, 40, 40, 0, 40]], [[50, 50, 90, 50, 90, 90, 50, 90]]]
    numbers = run(gt, [DetDataSample(metainfo=dict(img_id='a'), pred_instances=found)], CocoMetric(metric=['bbox', 'segm']))
    assert numbers['coco/segm_mAP'] == numbers['coco/bbox_mAP'] == pytest.approx(.5)
    gt.masks[1] = None
    with pytest.raises(ValueError, match="1 objects have no mask, the first on image 'a'"):
        run(gt, [DetDataSample(metainfo=dict(img_id='a'), pred_instances=found)], CocoMetric(metric='segm'))


def test_half_precision_predictions():
    found = InstanceData(bboxes=torch.tensor([[0., 0, 40, 40]]).bfloat16(), scores=torch.tensor([.5]).half(), labels=torch.tensor([0]))
    kept = prediction_of(DetDataSample(metainfo=dict(img_id=1), pred_instances=found))
    assert kept['bboxes'].dtype == np.float64 and kept['bboxes'].tolist() == [[0, 0, 40, 40]]


def test_proposals(gt):
    numbers = run(gt, perfect(), CocoMetric(metric='proposal_fast', proposal_nums=(1, 10)))
    assert numbers == {'coco/AR@1': pytest.approx(2 / 3), 'coco/AR@10': pytest.approx(1)}
    assert run(gt, perfect(), CocoMetric(metric='proposal', proposal_nums=(1, 10)))['coco/AR@1'] == pytest.approx(2 / 3)
    assert eval_recalls([None], [np.zeros((0, 5))], 10).tolist() == [[0]]


def test_voc_modes_and_names(gt):
    numbers = run(gt, perfect(), VOCMetric(iou_thrs=[.5, .75], scale_ranges=[(0, 32), (32, 100)], classwise=True))
    assert numbers['pascal_voc/mAP'] == pytest.approx(1) and {'pascal_voc/AP50', 'pascal_voc/AP75', 'pascal_voc/AP50_0_32', 'pascal_voc/cat_AP50'} <= set(numbers)
    assert set(run(gt, perfect(), VOCMetric(metric='recall'))) == {f'pascal_voc/recall@{n}@0.5' for n in (100, 300, 1000)}


def test_eval_map_by_hand(capsys):
    gts = [[10., 10, 40, 40], [50, 15, 80, 45], [20, 55, 60, 85]]
    dets = [[11., 12, 41, 41, .95], [52, 18, 84, 47, .9], [7, 8, 39, 37, .8], [62, 60, 78, 84, .7], [19, 57, 55, 86, .6], [2, 68, 16, 88, .3]]
    annotations = [dict(bboxes=gts, labels=[0, 0, 0])]
    assert eval_map([[np.array(dets)]], annotations, logger='silent')[0] == pytest.approx(13 / 15)
    assert eval_map([[np.array(dets)]], annotations, eval_mode='11points')[0] == pytest.approx(9.4 / 11)
    assert 'mAP' in capsys.readouterr().out
    ignored = [dict(bboxes=gts[1:], labels=[0, 0], bboxes_ignore=gts[:1], labels_ignore=[0])]
    mean, results = eval_map([[np.array(dets)]], ignored, logger='silent')
    assert results[0]['num_gts'] == 2 and mean == pytest.approx(.5 + .5 * 2 / 3)              # both boxes on it vanish from the queue
    assert eval_map([[np.zeros((0, 5))]], [dict(bboxes=[], labels=[])], logger='silent')[0] == 0


def test_tables_of_ranges(capsys):
    mean, results = eval_map([[np.array([[0, 0, 10, 10, .9]])]], [dict(bboxes=[[0, 0, 10, 10]], labels=[0])], scale_ranges=[(0, 20), (20, 40)])
    assert mean == [1, 0] and capsys.readouterr().out.count('sides from') == 2
    print_map_summary(.5, [], [])


def test_average_precision_shapes():
    assert average_precision(np.zeros((3, 0)), np.zeros((3, 0)), '11points').tolist() == [0, 0, 0]
    with pytest.raises(ValueError, match='recalls are'): average_precision(np.zeros(3), np.zeros(4))
    with pytest.raises(ValueError, match="got 'half'"): average_precision(np.zeros(3), np.zeros(3), 'half')


def test_evaluator_offline_equals_online(gt, tmp_path, capsys):
    cfg = [dict(type='CocoMetric'), dict(type='VOCMetric'), dict(type='DumpDetResults', out_file_path=str(tmp_path / 'p.pth'))]
    online = Evaluator(cfg)
    online.set_ground_truth(gt), online.process(perfect()[:2]), online.process(perfect()[2:], None)
    first = online.evaluate(3)
    later = Evaluator(cfg[:2]); later.set_ground_truth(gt)
    assert later.offline_evaluate(load_predictions(tmp_path / 'p.pth'), chunk_size=1) == first
    assert online.evaluate(3)['coco/bbox_mAP'] == 0                                            # nothing is left from the first round
    with pytest.raises(Exception): load_predictions(tmp_path / 'none.pth')


def test_evaluator_passes_dataset_meta_and_refuses_twins(gt):
    both = Evaluator([VOCMetric(), VOCMetric()])
    both.dataset_meta = dict(classes=('x',))
    assert both.dataset_meta == both.metrics[1].dataset_meta == dict(classes=('x',))
    both.set_ground_truth(gt), both.process(perfect())
    with pytest.raises(ValueError, match='another prefix'): both.evaluate()


def test_a_metric_without_ground_truth_says_so():
    with pytest.raises(RuntimeError, match='set_ground_truth'): VOCMetric().evaluate()
    with pytest.raises(NotImplementedError, match='BaseMetric has no compute'): run(flat_ground_truth([dict()], ('x',)), [], BaseMetric())
