"MMDetection's configs and checkpoints, as somebody brings them."
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import learndet
from learndet.core.registry import build
from learndet.core.samples import samples_dir
from learndet.engine.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from learndet.engine.config import Config
from learndet.engine.runner import fill_num_classes
from learndet.structures.instance_data import DetDataSample
from learndet.tools.cli import main
from learndet.tools.commands import mirrored_views, train, use_tta
from learndet.tools.inference import inference_detector, init_detector
from learndet.zoo.coverage import weightless
from learndet.zoo.mmdet_runs import is_mmdet, translate_run
from learndet.zoo.mmdetection import UnsupportedConfig, build_model, from_mmdet, translate_model

FASTER, RETINA = 'faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py', 'retinanet/retinanet_r18_fpn_1x_coco.py'


def model_config(path, **changes):
    "A config with `model` values replaced by their paths."
    config = Config.fromfile(path)
    config.merge_from_dict(changes)
    return config


def test_num_12_a_head_for_three_classes(mmdet_configs, tmp_path):
    "Faster R-CNN from COCO to three classes: exactly four tensors do not fit, the table says which, everything else is loaded."
    with weightless(): coco = build_model(Config.fromfile(mmdet_configs / FASTER))
    for p in coco.parameters(): p.data.zero_()
    path = save_checkpoint(dict(state_dict=coco.state_dict(), meta=dict(dataset_meta=dict(classes=tuple(map(str, range(80)))))), tmp_path / 'coco.pth')
    model = from_mmdet(model_config(mmdet_configs / FASTER, **{'model.roi_head.bbox_head.num_classes': 3}), path)
    report = model.load_report
    assert sorted((name, tuple(a), tuple(b)) for name, a, b in report.reinitialised) == [
        ('roi_head.bbox_head.fc_cls.bias', (81,), (4,)), ('roi_head.bbox_head.fc_cls.weight', (81, 1024), (4, 1024)),
        ('roi_head.bbox_head.fc_reg.bias', (320,), (12,)), ('roi_head.bbox_head.fc_reg.weight', (320, 1024), (12, 1024))]
    assert not report.missing and not report.unexpected and len(report.loaded) == len(coco.state_dict()) - 4
    head = model.roi_head.bbox_head
    assert .005 < head.fc_cls.weight.std() < .02 and head.fc_reg.bias.abs().max() == 0 and model.backbone.conv1.weight.abs().max() == 0
    assert len(model.dataset_meta['classes']) == 3 and '4 reinitialised' in str(report)


def test_a_checkpoint_for_another_architecture_is_refused(mmdet_configs, tmp_path):
    path = save_checkpoint(dict(state_dict={'backbone.patch_embed.weight': torch.zeros(3)}), tmp_path / 'swin.pth')
    with pytest.raises(CheckpointError, match='another architecture'): from_mmdet(mmdet_configs / RETINA, path)


def test_what_is_missing_is_named(mmdet_configs, tmp_path):
    "By its name, its place, its kind, its family and its nearest relatives; also where it hides in train_cfg."
    (tmp_path / 'oracle').mkdir()
    file = tmp_path / 'oracle' / 'a.py'
    file.write_text(f"_base_ = '{mmdet_configs / RETINA}'\nmodel = dict(bbox_head=dict(type='RetinaOracleHead'), train_cfg=dict(assigner=dict(type='CrystalAssigner')))")
    with pytest.raises(UnsupportedConfig) as found: from_mmdet(file)
    for words in ('oracle: learndet has no RetinaOracleHead yet, the bbox head at model.bbox_head', 'Also missing: CrystalAssigner', 'Nearest of that kind: RetinaHead'):
        assert words in str(found.value), found.value
    with pytest.raises(UnsupportedConfig, match='describes no model'): from_mmdet(mmdet_configs / 'common/ms_3x_coco.py')


def test_every_refusal_is_one_kind_of_error(mmdet_configs):
    "Never a bare KeyError: every twentieth config of the zoo is a model or an UnsupportedConfig."
    for path in sorted(mmdet_configs.glob('*/*.py'))[::20]:
        if path.parent.name == '_base_': continue
        try: config = Config.fromfile(path)
        except (ValueError, FileNotFoundError): continue
        try:
            with weightless(): build_model(config)
        except UnsupportedConfig as error: assert len(str(error)) > 20


PURE_PYTHON = {
    'base.py': """from mmcv.ops import nms
from torch.nn import BatchNorm2d
from mmdet.models import FPN, RetinaNet
from mmdet.models.backbones.resnet import ResNet
from mmdet.models.dense_heads.retina_head import RetinaHead
from mmdet.models.task_modules.assigners.max_iou_assigner import MaxIoUAssigner

model = dict(
    type=RetinaNet, backbone=dict(type=ResNet, depth=18, norm_cfg=dict(type=BatchNorm2d, requires_grad=True)),
    neck=dict(type=FPN, in_channels=[64, 128, 256, 512], out_channels=64, start_level=1, add_extra_convs='on_input', num_outs=5),
    bbox_head=dict(type=RetinaHead, num_classes=80, in_channels=64, stacked_convs=1),
    train_cfg=dict(assigner=dict(type=MaxIoUAssigner, pos_iou_thr=.5, neg_iou_thr=.4)),
    test_cfg=dict(nms_pre=1000, nms=dict(type=nms, iou_threshold=.5), score_thr=.05, max_per_img=100))
""",
    'child.py': """from mmengine.config import read_base
with read_base():
    from .base import *
model.update(dict(bbox_head=dict(num_classes=5)))
model.test_cfg.update(score_thr=.1)
""",
    'older.py': """if '_base_':
    from .base import *
model.merge(dict(bbox_head=dict(_delete_=True, type='RetinaHead', num_classes=4, in_channels=64, stacked_convs=2)))
"""}


def test_pure_python_configs_build(tmp_path):
    "The newer style, with imports and read_base(), read without importing anything."
    for name, text in PURE_PYTHON.items(): (tmp_path / name).write_text(text)
    model = from_mmdet(tmp_path / 'child.py')
    assert model.bbox_head.num_classes == 5 and model.bbox_head.postprocess.score_thr == .1 and len(model.bbox_head.cls_convs) == 1
    assert type(model.bbox_head.postprocess.nms).__name__ == 'NMS' and model.bbox_head.assigner.pos_iou_thr == .5
    model = from_mmdet(tmp_path / 'older.py')
    assert model.bbox_head.num_classes == 4 and len(model.bbox_head.cls_convs) == 2
    assert not any(name.split('.')[0] in ('mmdet', 'mmcv', 'mmengine') for name in sys.modules)


def test_translation_leaves_our_own_configs_alone():
    for path in sorted((Path(learndet.__file__).parent / 'configs').glob('*/*.py')):
        config = Config.fromfile(path)
        assert not is_mmdet(config) and translate_run(config) is config
        if 'model' in config: assert translate_model(config.model.to_dict()) == config.model.to_dict()


def small_run(mmdet_configs, name, work_dir):
    "An unmodified MMDetection config, with only its data (and the download of its backbone) overridden."
    dataset, options = f'{samples_dir()}/', [f'work_dir={work_dir}', 'model.backbone.init_cfg=None', 'train_cfg.max_epochs=1', 'default_hooks.visualization=None']
    for part, file in (('train', 'val.json'), ('val', 'val.json'), ('test', 'val.json')):
        loader = f'{part}_dataloader'
        options += [f'{loader}.dataset.data_root={dataset}', f'{loader}.dataset.ann_file={file}', f'{loader}.dataset.data_prefix.img=JPEGImages/',
                    f'{loader}.num_workers=0', f'{loader}.persistent_workers=False', f'{loader}.dataset.pipeline.{"2" if part == "train" else "1"}.scale=(96,96)']
    options += [f'{part}_evaluator.ann_file={dataset}val.json' for part in ('val', 'test')]
    return mmdet_configs / name, options


def test_an_unmodified_config_trains_tests_and_predicts(mmdet_configs, tmp_path):
    config, options = small_run(mmdet_configs, RETINA, tmp_path)
    runner = train(config, cfg_options=options)
    assert runner.model.bbox_head.num_classes == len(runner.model.dataset_meta['classes']) == 3
    assert 'coco/bbox_mAP' in runner.metrics
    saved = sorted(tmp_path.glob('epoch_*.pth'))[-1]
    picture = next((samples_dir() / 'JPEGImages').glob('*'))
    model = init_detector(config, saved, cfg_options=[*options, 'model.bbox_head.num_classes=3'])
    assert model.load_report.exact and model.dataset_meta['classes'] == runner.model.dataset_meta['classes']
    found = inference_detector(model, str(picture))
    assert isinstance(found, DetDataSample) and found.pred_instances.bboxes.shape[1] == 4


FRESH = '''
import sys, torch
from learndet.zoo import from_mmdet
from learndet.structures.instance_data import DetDataSample
torch.set_num_threads(1)
model = from_mmdet(sys.argv[1], sys.argv[2])
with torch.no_grad(): outs = model(torch.load(sys.argv[3], weights_only=True))
torch.save([t for row in outs for t in row], sys.argv[4])
'''


def test_weights_make_the_round_trip_through_a_fresh_process(mmdet_configs, tmp_path):
    torch.manual_seed(0)
    model = from_mmdet(mmdet_configs / RETINA)
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad(): before = [t for row in model(x) for t in row]
    save_checkpoint(dict(state_dict=model.state_dict()), tmp_path / 'w.pth'); torch.save(x, tmp_path / 'x.pt')
    subprocess.run([sys.executable, '-c', FRESH, mmdet_configs / RETINA, tmp_path / 'w.pth', tmp_path / 'x.pt', tmp_path / 'y.pt'], check=True, timeout=120)
    after = torch.load(tmp_path / 'y.pt', weights_only=True)
    assert len(before) == len(after) and all(torch.equal(a, b) for a, b in zip(before, after))


MMENGINE_FILE = '''
import collections, pathlib, sys
import numpy as np, torch
from addict import Dict
from mmengine.config import Config, ConfigDict
from mmengine.logging import HistoryBuffer
meta = dict(epoch=12, iter=np.int64(7), mAP=np.float32(.37), cfg='a = 1', config=ConfigDict(a=1), addict=Dict(x=Dict(y=1)), areas=np.arange(3),
            dataset_meta=dict(classes=('a', 'b'), palette=[(1, 2, 3), (4, 5, 6)]), path=pathlib.Path('a'), counts=collections.defaultdict(int, a=1))
hub = dict(log_scalars=dict(loss=HistoryBuffer([1., 2.], [1, 1])), runtime_info=dict(cfg=Config(dict(a=1))))
torch.save(dict(meta=meta, state_dict=collections.OrderedDict(w=torch.ones(2)), ema_state_dict={'module.w': torch.zeros(2), 'steps': torch.tensor(1)},
                message_hub=hub, optimizer=dict(state={}, param_groups=[]), param_schedulers=[]), sys.argv[1])
'''


def test_mmengine_checkpoint_loads_as_data(tmp_path):
    "Written by MMEngine itself, read by somebody who does not have it."
    where = os.environ.get('LEARNDET_MMDET')
    if not where: pytest.skip('LEARNDET_MMDET names no folder with mmengine to write a checkpoint with')
    path = tmp_path / 'mm.pth'
    subprocess.run([sys.executable, '-c', MMENGINE_FILE, path], check=True, timeout=120, env={**os.environ, 'PYTHONPATH': where})
    found = load_checkpoint(path)
    assert torch.equal(found['state_dict']['w'], torch.ones(2))
    assert found['meta']['dataset_meta']['classes'] == ('a', 'b') and found['meta']['iter'] == 7 and found['meta']['addict']['x']['y'] == 1


def test_commands(mmdet_configs, tmp_path, capsys):
    with weightless(): model = build_model(Config.fromfile(mmdet_configs / RETINA))
    path = save_checkpoint(dict(state_dict=model.state_dict(), optimizer=dict(state={0: torch.zeros(1_000_000)}), meta=dict(epoch=1)), tmp_path / 'epoch_1.pth')
    assert main(['publish', str(path), str(tmp_path / 'retinanet.pth')]) == 0
    published = next(tmp_path.glob('retinanet-*.pth'))
    assert str(published) in capsys.readouterr().out and published.stat().st_size < path.stat().st_size - 3_900_000
    import hashlib
    assert hashlib.sha256(published.read_bytes()).hexdigest()[:8] == published.stem.split('-')[-1]                 # TOOL-13
    (tmp_path / 'future').mkdir(); (tmp_path / 'future/a.py').write_text("model = dict(type='Oracle')")
    assert main(['zoo', '--mmdet-configs', str(tmp_path)]) == 0 and '| future | 1 | 0 |' in capsys.readouterr().out
    assert main(['convert', str(tmp_path / 'nothing.pkl'), str(tmp_path / 'x.pth')]) == 1
    assert 'no file' in capsys.readouterr().err


def test_inf_10_a_config_keeps_its_views(mmdet_configs):
    "tta_model and tta_pipeline pass the translation, and --tta builds them around the translated model: six views."
    config = Config.fromfile(mmdet_configs / 'retinanet/retinanet_r50_fpn_1x_coco.py')
    run = translate_run(config)
    for key in ('tta_model', 'tta_pipeline'): assert run[key] == config[key]
    use_tta(run)
    with weightless(): model = build(fill_num_classes(run['model'], tuple(map(str, range(80))), 'COCO'), where='model')
    assert type(model).__name__ == 'DetTTAModel' and type(model.module).__name__ == 'RetinaNet'
    assert (model.nms.iou_threshold, model.max_per_img, model.module.data_preprocessor.pad_size_divisor) == (.5, 100, 32)
    assert len(build(run['test_dataloader']['dataset']['pipeline'])[-1].subroutines) == 6
    assert config['test_dataloader']['dataset']['pipeline'][-1]['type'] == 'PackDetInputs'             # what was handed over stays


def test_inf_10_a_config_without_views_gets_the_mirror_image(mmdet_configs):
    "Facts about the mirror are added where meta_keys leave them out, and a Pad of the pipeline comes behind the mirror."
    run = translate_run(Config.fromfile(mmdet_configs / FASTER))
    with pytest.warns(UserWarning, match='no tta_model and no tta_pipeline'): use_tta(run)
    views = build(run['test_dataloader']['dataset']['pipeline'])[-1]
    assert len(views.subroutines) == 2 and {'flip', 'flip_direction'} <= set(views.subroutines[0][-1].meta_keys)
    yolox = Config.fromfile(mmdet_configs / 'yolox/yolox_s_8xb8-300e_coco.py')['test_dataloader']['dataset']['pipeline']
    kinds = [t['type'] for t in mirrored_views(yolox)]
    assert 'Pad' in [t['type'] for t in yolox] and 'Pad' not in kinds and kinds[-1] == 'TestTimeAug'
