"""What goes wrong for users, row by row of the list of user needs: each test does what a user does and reads what is said.

Rows held elsewhere: 3c, 3d `engine/test_optimizers.py`; 4a, 4c, 4d `tools/test_check.py`; 4b and the annotation file (1-31) `data/test_coco.py`; 5d, 5e
`engine/test_config.py`; 7a `runs/test_empty_batches.py`; 12a, 12b `data/test_transform_faults.py`; 13b, 13c
`evaluation/test_metrics.py` as well; 14a, 99 `engine/test_checkpoint.py`; 14b `engine/test_resume.py`; 23a
`engine/test_distributed.py`; 32a, 32b `engine/test_checkpoint.py`, `engine/test_config_language.py`."""
import copy
import json
import shutil
import warnings

import numpy as np
import pytest
import torch

import learndet
from learndet.core.registry import MODELS, build
from learndet.core.samples import samples_dir
from learndet.data.annotations import DatasetError
from learndet.data.coco import CocoDataset
from learndet.engine.checkpoint import CheckpointError, check_complete, load_checkpoint, load_state, save_checkpoint
from learndet.engine.runner import Runner
from learndet.evaluation.coco_metric import CocoMetric
from learndet.tools.cli import main
from learndet.tools.commands import read_config

CLASSES = ('circle', 'square', 'triangle')
FOLDER = dict(img='JPEGImages')


def snapshot(folder): return {p.relative_to(folder): p.read_bytes() for p in sorted(folder.rglob('*')) if p.is_file()}


@pytest.fixture
def project(tmp_path, monkeypatch):
    "A user's folder: data of their own; `edit(train=f, val=f)` changes annotation files first. Nothing of it is ever modified."
    shutil.copytree(samples_dir(), tmp_path / 'data')
    monkeypatch.chdir(tmp_path)
    kept = {}
    def edit(**changes):
        for split, change in changes.items():
            path = tmp_path / 'data' / f'{split}.json'
            data = json.loads(path.read_text())
            change(data)
            path.write_text(json.dumps(data))
        kept.update(snapshot(tmp_path / 'data'))
    edit()
    yield edit
    assert snapshot(tmp_path / 'data') == kept


def options(*more, validate=False):
    "A small network on the sample pictures, for one epoch."
    off = [] if validate else ['val_dataloader=None', 'val_cfg=None', 'val_evaluator=None', 'test_dataloader=None', 'test_evaluator=None', 'test_cfg=None']
    data = [f'{part}_dataloader.dataset.{key}' for part in (('train', 'val', 'test') if validate else ('train',)) for key in ('data_root=data/', 'metainfo=None')]
    return ['train_dataloader.num_workers=0', 'train_dataloader.persistent_workers=False', 'train_cfg.max_epochs=1', 'train_cfg.val_interval=1',
            'model.backbone.base_channels=16', 'model.backbone.stem_channels=16', 'model.neck.in_channels=[32,64,128]', *off, *data, *more]


def train(*more, validate=False):
    return main(['train', 'retinanet_r18-slim_samples', '--work-dir', 'out', '--cfg-options', *options(*more, validate=validate)])


def message(capsys, *more, **kwargs):
    "What a training that refuses to start says; it is no stack trace, and nothing was written."
    assert train(*more, **kwargs) == 1
    text = capsys.readouterr().err
    assert 'Traceback' not in text
    from pathlib import Path
    assert not Path('out').exists(), 'something was written'
    return text


def new_ids(ids):
    def change(data):
        ids_of = {c['id']: i for c, i in zip(data['categories'], ids)}
        for c in data['categories']: c['id'] = ids_of[c['id']]
        for a in data['annotations']: a['category_id'] = ids_of[a['category_id']]
    return change


def dataset(split='train', **kwargs): return CocoDataset(f'{split}.json', data_root='data', data_prefix=FOLDER, **kwargs)


# -- 1: names, ids, numbers of classes ----------------------------------------------------------------------------------------

def test_1a_the_order_of_the_file_means_nothing(project):
    before = dataset(metainfo=dict(classes=CLASSES))
    project(train=lambda d: d['categories'].sort(key=lambda c: c['name'], reverse=True))
    after = dataset(metainfo=dict(classes=CLASSES))
    assert after.metainfo['classes'] == CLASSES == after.ground_truth().classes
    assert np.array_equal(before.table.labels, after.table.labels) and before.class_counts() == after.class_counts()
    assert after.classes.source_ids == before.classes.source_ids == (1, 2, 4)


def test_1b_a_misspelt_class_stops_the_run(project, capsys):
    text = message(capsys, "train_dataloader.dataset.metainfo=dict(classes=('circle','sqare','triangle'))")
    for part in ("'sqare'", "did you mean 'square'", 'train.json', str(CLASSES), '21 boxes'): assert part in text


@pytest.mark.parametrize('ids', [(0, 1, 2), (1, 2, 3), (1, 44, 90), (7, 3, 5), (91, 400, 91000)])
def test_1c_ids_change_no_loss_and_their_map_is_printed_and_kept(project, capsys, ids):
    def losses():
        runner = Runner.from_cfg(read_config('retinanet_r18-slim_samples', options('train_dataloader.batch_size=6', 'train_dataloader.drop_last=False'), work_dir='out'))
        runner.train()
        return runner.buffer.values('loss')
    first = losses()
    capsys.readouterr()
    project(train=new_ids(ids))
    assert losses() == first                                                                # to the last bit
    text = capsys.readouterr().out
    assert text.count('category id -> class') == 1 and f'{ids[0]} -> circle' in text
    assert load_checkpoint('out/epoch_1.pth')['meta']['dataset_meta']['source_ids'] == list(ids)


def test_1d_two_files_in_two_orders_and_a_class_in_one_only(project):
    def no_square(data):
        data['annotations'] = [a for a in data['annotations'] if a['category_id'] != 2]
        data['categories'] = [c for c in data['categories'] if c['id'] != 2][::-1]
    project(val=no_square)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always')
        runner = Runner.from_cfg(read_config('retinanet_r18-slim_samples', options(validate=True), work_dir='out'))
    assert runner.val_dataloader.dataset.classes.names == CLASSES
    text = ' '.join(str(w.message) for w in said)
    assert text.count("class 'square' has 21 boxes in train and 0 in val") == 1


def test_1e_a_wrong_number_of_classes_names_both_places(project, capsys):
    text = message(capsys, 'model.bbox_head.num_classes=80')
    for part in ('model.bbox_head.num_classes is 80', 'train_dataloader.dataset', '3 classes'): assert part in text


def test_1f_a_bare_string(project, capsys):
    assert "write ('circle',)" in message(capsys, "train_dataloader.dataset.metainfo=dict(classes='circle')")


# -- 3: losses that are no numbers --------------------------------------------------------------------------------------------

def test_3a_names_term_images_annotations_and_tensor_and_is_repeated_from_the_file(project, capsys):
    assert train('optim_wrapper.optimizer.lr=1e30', 'param_scheduler=[]') == 1
    text = capsys.readouterr().err
    assert 'Traceback' not in text
    for part in ('loss_cls = nan', 'data/JPEGImages/train_', 'annotation ids ', 'first non-finite tensor: the output of backbone.',
                 "learndet.replay('out/nan_iter_1.pth')"): assert part in text
    found = learndet.replay('out/nan_iter_1.pth')                                            # no model needed: the file knows its config
    assert 'loss_cls' in found['terms'] and found['first'].startswith('the output of backbone.')
    ids = {a['id'] for a in json.loads(open('data/train.json').read())['annotations']}
    assert set(sum(found['report']['annotation_ids'], [])) <= ids


@pytest.mark.parametrize('bbox, says', [([1, 2, float('nan'), 4], 'NaN or infinite'), ([30, 30, -20, 10], 'corners swapped'), ([30, 30, 0, 10], 'zero width')])
def test_3b_bad_boxes_are_met_by_the_reader(project, bbox, says):
    project(train=lambda d: d['annotations'][5].update(bbox=bbox))
    try: report = dataset().report
    except DatasetError as error: report = error.report
    assert says in str(report) and f"annotation id {json.loads(open('data/train.json').read())['annotations'][5]['id']}" in str(report)


# -- 5 and 6: configs ---------------------------------------------------------------------------------------------------------

MISSPELT = {        # what a user writes: (the full path, the right word)
    'model.bbox_head.anchor_generator.scale=4': ('model.bbox_head.anchor_generator.scale', 'scales'),
    'model.bbox_hed.num_classes=3': ('model.bbox_hed', 'bbox_head'),
    'train_dataloader.num_worker=2': ('train_dataloader.num_worker', 'num_workers'),
    'train_dataloader.sampler.shufle=True': ('train_dataloader.sampler.shufle', 'shuffle'),
    'train_dataloader.sampler.type=DefaultSamplr': ('train_dataloader.sampler', 'DefaultSampler'),
    'train_dataloader.batch_sampler.dropl=1': ('train_dataloader.batch_sampler.dropl', 'drop_last'),
    'train_dataloader.dataset.an_file=x': ('train_dataloader.dataset.an_file', 'ann_file'),
    'train_dataloader.dataset.data_prefix.imgs=x': ('data_prefix.imgs', 'img'),
    "train_dataloader.dataset.metainfo=dict(clases=('a',))": ('metainfo.clases', 'classes'),
    'train_dataloader.dataset.pipeline.2.scal=3': ('train_dataloader.dataset.pipeline[2].scal', 'scale'),
    'train_cfg.max_epoch=2': ('train_cfg.max_epoch', 'max_epochs'),
    'optim_wrapper.optimiser.lr=1': ('optim_wrapper.optimiser', 'optimizer'),
    'optim_wrapper.clip_grad=dict(maxnorm=3)': ('clip_grad.maxnorm', 'max_norm'),
    'optim_wrapper.paramwise_cfg=dict(custom_keys=dict(backbone=dict(lr_mul=.1)))': ('optim_wrapper.paramwise_cfg.custom_keys.backbone.lr_mul', 'lr_mult'),
    'optim_wrapper.type=OptimWraper': ('optim_wrapper', 'OptimWrapper'),
    'param_scheduler.0.type=LinerLR': ('param_scheduler.0', 'LinearLR'),
    'auto_scale_lr=dict(enabl=True,base_batch_size=16)': ('auto_scale_lr.enabl', 'enable'),
    'randomness.sed=3': ('randomness.sed', 'seed'),
    'env_cfg.cudn_benchmark=True': ('env_cfg.cudn_benchmark', 'cudnn_benchmark'),
    "default_hooks.chekpoint=dict(type='CheckpointHook')": ('default_hooks.chekpoint', 'checkpoint'),
    'default_hooks.logger.intervall=5': ('default_hooks.logger.intervall', 'interval'),
    "vis_backends=[dict(type='LocalVisBacken')]": ('vis_backends[0]', 'LocalVisBackend'),
    'train_dataloder.batch_size=2': ('train_dataloder', 'train_dataloader'),
}


@pytest.mark.parametrize('option', MISSPELT)
def test_5a_a_misspelt_key_anywhere_names_its_path_and_the_right_one(project, capsys, option):
    path, right = MISSPELT[option]
    text = message(capsys, option)
    assert path in text and right in text, text


@pytest.mark.parametrize('option, parts', [
    ('custom_hooks=[dict(tpe="EMAHook")]', ['custom_hooks[0]', 'no `type`']), ('model=None', ['no model']), ('optim_wrapper=None', ['no optim_wrapper'])])
def test_5a_what_is_missing_is_said(project, capsys, option, parts):
    text = message(capsys, option)
    assert all(part in text for part in parts), text


def test_6a_an_unknown_component(tmp_path, monkeypatch):
    with pytest.raises(LookupError) as e: build(dict(type='FasterRCN'))
    assert 'the model registry' in str(e.value) and len(str(e.value).partition('nearest: ')[2].split(', ')) == 3 and 'FasterRCNN' in str(e.value)
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'mylab_heads.py').write_text('class LabHead:\n    pass\n')
    with pytest.raises(LookupError, match=r"mylab_heads.py defines it, but was not imported; see custom_imports\('mylab_heads'\)"): build(dict(type='LabHead'))


def test_6b_the_same_cell_twice_and_a_stranger_of_that_name(monkeypatch, capsys):
    monkeypatch.setattr(MODELS, 'module_dict', dict(MODELS.module_dict))
    cell = 'from learndet.core.registry import MODELS\n@MODELS.register_module()\nclass RowSixB: pass\n'
    for _ in range(2): exec(cell, dict(__name__='notebook'))
    assert 'RowSixB was defined again, the new one is used' in capsys.readouterr().out
    with pytest.raises(KeyError, match=r'notebook.RowSixB.*elsewhere.RowSixB'): exec(cell, dict(__name__='elsewhere'))


# -- 7: pictures without objects ----------------------------------------------------------------------------------------------

def test_7a_a_training_on_pictures_without_objects_alone(project, capsys):
    def only_empty(data):
        first = data['images'][0]['id']
        data['annotations'] = [a for a in data['annotations'] if a['image_id'] == first]
    project(train=only_empty)
    assert train('train_dataloader.batch_size=6', "train_dataloader.sampler=dict(type='DefaultSampler',shuffle=False)") == 0
    assert 'nan' not in capsys.readouterr().out.replace('nan_', '')


def test_7b_background_pictures_are_kept_and_counted(project):
    project(train=lambda d: d.update(annotations=[a for a in d['annotations'] if a['image_id'] <= 4]))
    data = dataset()
    empty = 12 - len(set(data.table.img_index.tolist()))
    assert len(data) == 12 and empty >= 8 and f'12 kept ({empty} empty)' in data.report.line()


def test_7c_every_transform_takes_a_picture_without_objects():
    from learndet.data.transforms import cropping, formatting, geometric, loading, photometric, pipeline
    rooms = (cropping, geometric, photometric)
    needs = dict(RandomCrop=dict(crop_size=(20, 20)), Resize=dict(scale=(50, 40)), RandomResize=dict(scale=[(60, 30), (120, 70)]),
                 RandomChoiceResize=dict(scales=[(40, 40), (90, 50)]), RandomFlip=dict(prob=1.), Pad=dict(size_divisor=32),
                 FixShapeResize=dict(width=64, height=48), Normalize=dict(mean=[0, 0, 0], std=[1, 1, 1]), Expand=dict(prob=1.))
    kinds = [v for room in rooms for n in room.__all__ if isinstance(v := getattr(room, n), type) and issubclass(v, pipeline.BaseTransform)]
    assert len(kinds) >= 10
    empty = dict(img=np.full((48, 64, 3), 90, np.uint8), img_path='empty.png', img_id=1, instances=[])
    empty = loading.LoadAnnotations(with_mask=True)(loading.LoadImageFromNDArray()(dict(empty, rng=np.random.default_rng(0))))
    for kind in [*kinds, loading.FilterAnnotations]:
        made = kind(**needs.get(kind.__name__, dict(min_gt_bbox_wh=(4, 4)) if kind is loading.FilterAnnotations else {}))
        for seed in range(5):
            out = made(dict(copy.deepcopy(empty), rng=np.random.default_rng(seed)))
            if out is None: continue                     # a filter that was asked to leave such pictures out
            assert out['gt_bboxes'].shape == (0, 4) and out['gt_bboxes'].dtype == torch.float32, kind
            assert out['gt_bboxes_labels'].shape == (0,) and out['gt_bboxes_labels'].dtype == torch.int64, kind
            packed = formatting.PackDetInputs()(out)['data_samples'].gt_instances
            assert packed.bboxes.shape == (0, 4) and packed.labels.shape == (0,)


def test_7c_a_crop_that_removes_all_boxes():
    from learndet.data.transforms.cropping import RandomCrop
    from learndet.data.transforms.loading import LoadAnnotations, LoadImageFromNDArray
    corner = dict(img=np.zeros((60, 60, 3), np.uint8), instances=[dict(bbox=[0, 0, 4, 4], bbox_label=1, ignore_flag=0)])
    outs = [RandomCrop((10, 10), allow_negative_crop=True)(LoadAnnotations()(LoadImageFromNDArray()(dict(copy.deepcopy(corner), rng=np.random.default_rng(s)))))
            for s in range(20)]
    lost = [o for o in outs if not len(o['gt_bboxes'])]
    assert lost and all(o['gt_bboxes'].shape == (0, 4) and o['gt_bboxes_labels'].shape == (0,) for o in lost)


# -- 13 and 15: ids in the metric, weights of other models ---------------------------------------------------------------------

ODD_IDS = {
    'annotation id 0': lambda d: [a.update(id=n) for n, a in enumerate(d['annotations'])],
    'all the same': lambda d: [a.update(id=1) for a in d['annotations']],
    'text': lambda d: [i.update(id=str(i['id'])) for i in d['images']] + [a.update(image_id=str(a['image_id']), id=f'a{n}') for n, a in enumerate(d['annotations'])],
    'text on one side': lambda d: [i.update(id=str(i['id'])) for i in d['images']],
    'uuid': lambda d: [i.update(id=f'u-{i["id"]}') for i in d['images']] + [a.update(image_id=f'u-{a["image_id"]}') for a in d['annotations']],
}


@pytest.mark.parametrize('kind', ODD_IDS)
@pytest.mark.parametrize('reads', ['dataset', 'file'])
def test_13b_odd_ids_and_perfect_predictions_are_ap_1(project, capsys, kind, reads):
    project(val=ODD_IDS[kind])
    gt = dataset('val', test_mode=True).ground_truth()
    metric = CocoMetric(ann_file='data/val.json') if reads == 'file' else CocoMetric()
    if reads == 'file': metric.dataset_meta = dict(classes=CLASSES)
    else: metric.set_ground_truth(gt)
    for n, img_id in enumerate(gt.img_ids):
        mine = (gt.img_index == n) & ~gt.ignore
        metric.process([dict(img_id=img_id, pred_instances=dict(bboxes=torch.tensor(gt.bboxes[mine]), labels=torch.tensor(gt.labels[mine]), scores=torch.ones(int(mine.sum()))))], None)
    assert metric.evaluate(len(gt.img_ids))['coco/bbox_mAP'] == 1.


def small(K, depth=18, **kwargs): return build(dict(type='retinanet', num_classes=K, backbone=dict(type='ResNet', depth=depth, base_channels=8, stem_channels=8), **kwargs))


def test_15a_the_table_of_another_number_of_classes():
    report = load_state(three := small(3), small(80).state_dict())
    assert [n for n, _, _ in report.reinitialised] == ['bbox_head.retina_cls.weight', 'bbox_head.retina_cls.bias'] and report.matched == 1.
    for word in ('loaded', 'reshaped', 'reinitialised', 'missing', 'unexpected'): assert word in str(report)
    with pytest.raises(CheckpointError, match='0?[0-4]?[0-9]% of the weights matched, nothing was loaded'): load_state(small(3, 50), small(80).state_dict())
    with pytest.raises(CheckpointError, match='2 of the .* weights of RetinaNet|2 of the .* weights of SingleStageDetector'): check_complete(three, report, 'eighty.pth')


def test_94_a_test_with_the_checkpoint_of_another_model(project, capsys):
    "Random numbers in a head are a training's beginning, and a test's mistake."
    other = build(dict(type='faster_rcnn', num_classes=3, backbone=dict(type='ResNet', depth=18, base_channels=16, stem_channels=16)))
    save_checkpoint(dict(meta=dict(dataset_meta=dict(classes=CLASSES)), state_dict=other.state_dict()), 'other.pth')
    for words in (['test', 'retinanet_r18-slim_samples', 'other.pth', '--work-dir', 'tested'],
                  ['predict', 'retinanet_r18-slim_samples', 'other.pth', 'data/JPEGImages/val_0001.jpg', '--out-dir', 'drawn']):
        assert main([*words, '--cfg-options', *options(validate=True)]) == 1
        text = capsys.readouterr().err
        assert 'bbox_head.' in text and 'random numbers' in text or 'weights matched' in text


# -- section 4: pictures, modules that do not fit -----------------------------------------------------------------------------

def test_60_missing_pictures_stop_a_run_before_it_begins(project, capsys):
    project(train=lambda d: [d['images'][n].update(file_name=d['images'][n]['file_name'].upper()) for n in range(7)])
    text = message(capsys)
    for part in ('picture is not there (7)', 'TRAIN_0001.JPG', "'train_0001.jpg'", 'and 2 more', 'data_prefix'): assert part in text


def test_findings_are_listed_at_the_start(project, capsys):
    "Policy of section 4: fixed, dropped and warned about is counted and listed, in a training too."
    project(train=lambda d: [d['annotations'][1].update(bbox=[10, 10, 0, 5]), d['annotations'][2].update(bbox=[60, 60, -30, -20])])
    assert train('train_dataloader.batch_size=6') == 0
    text = capsys.readouterr().out
    for part in ('1 dropped (1 zero width or height)', 'dropped: zero width or height (1)', 'fixed: corners swapped (1)', 'annotation id'): assert part in text


@pytest.mark.parametrize('option, parts', [
    ('model.neck.in_channels=[64,64,64]', ['ResNet gives [32, 64, 128]', 'FPN was built for [64, 64, 64]']),                  # 87
    ('model.bbox_head.in_channels=32', ['FPN gives 64 channels', 'RetinaHead was built for 32']),                             # 87
    ('model.bbox_head.anchor_generator.strides=[8,16]', ['FPN gives 3 maps', 'have 2 strides'])])                             # 88
def test_87_88_modules_that_do_not_fit_say_so_when_they_are_built(project, capsys, option, parts):
    text = message(capsys, option)
    assert all(part in text for part in parts), text


def test_113_a_dataset_smaller_than_a_batch(project, capsys):
    text = message(capsys, 'train_dataloader.batch_size=50')
    assert '12 images' in text and '50' in text
