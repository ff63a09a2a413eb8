"The program as a user starts it: in a process of its own, from any folder."
import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from learndet.core.samples import samples_dir
from learndet.tools.commands import find_config

TINY = ['train_dataloader.num_workers=0', 'train_dataloader.persistent_workers=False', 'train_cfg.max_epochs=1', 'train_cfg.val_interval=1',
        'model.backbone.base_channels=16', 'model.backbone.stem_channels=16', 'model.neck.in_channels=[32,64,128]']


def learndet(*words, cwd, **kwargs):
    return subprocess.run([sys.executable, '-m', 'learndet.tools.cli', *map(str, words)], cwd=cwd, capture_output=True, text=True, timeout=240, **kwargs)


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    "A run of one epoch on the sample pictures, with a relative data root moved by the environment."
    import os
    folder = tmp_path_factory.mktemp('run')
    options = TINY + [f'{part}_dataloader.dataset.data_root={samples_dir()}' for part in ('train', 'val', 'test')]
    done = learndet('train', 'retinanet_r18-slim_samples', '--work-dir', 'out', '--cfg-options', *options, cwd=folder, env=dict(os.environ, OMP_NUM_THREADS='1'))
    assert done.returncode == 0, done.stderr[-3000:]
    return folder, options


def test_train_leaves_a_checkpoint_a_log_and_metrics(trained):
    folder, _ = trained
    assert (folder / 'out/epoch_1.pth').exists()
    rows = [json.loads(line) for log in (folder / 'out').rglob('scalars.json') for line in log.read_text().splitlines()]
    assert any('loss' in row for row in rows) and any('coco/bbox_mAP' in row for row in rows)


def test_tensorboard_is_written_where_it_is_installed(trained):
    pytest.importorskip('tensorboard', reason='TensorBoard is not installed')
    assert list((trained[0] / 'out').rglob('events.out.tfevents*'))


def test_test_and_predict_read_it(trained):
    folder, options = trained
    done = learndet('test', 'retinanet_r18-slim_samples', 'out/epoch_1.pth', '--out', 'found.pkl', '--cfg-options', *options, cwd=folder)
    assert done.returncode == 0 and (folder / 'found.pkl').exists(), done.stderr[-3000:]
    picture = sorted(Path(samples_dir(), 'JPEGImages').glob('val_*'))[0]
    done = learndet('predict', 'retinanet_r18-slim_samples', 'out/epoch_1.pth', picture, '--out-dir', 'vis', '--cfg-options', *options, cwd=folder)
    assert done.returncode == 0 and (folder / f'vis/{picture.stem}.png').exists(), done.stderr[-3000:]
    assert '1 pictures in vis: ' in done.stdout and 'detections have a score above' in done.stdout


def found_by(folder, options, config, out, *words):
    "The predictions of a test, image by image, and what it printed on stderr."
    done = learndet('test', config, 'out/epoch_1.pth', '--out', out, *words, '--cfg-options', *options, cwd=folder)
    assert done.returncode == 0, done.stderr[-3000:]
    return {row['img_id']: row['pred_instances'] for row in pickle.loads((folder / out).read_bytes())}, done.stderr


def test_tta_asks_for_the_mirror_image_where_the_config_says_nothing(trained):
    "INF-10: a warning says what is taken; without --tta there is none."
    folder, options = trained
    options = options + ['model.bbox_head.postprocess.score_thr=0.']                       # one epoch: scores are low
    plain, said = found_by(folder, options, 'retinanet_r18-slim_samples', 'plain.pkl')
    assert 'mirror' not in said
    both, said = found_by(folder, options, 'retinanet_r18-slim_samples', 'both.pkl', '--tta')
    assert 'the config has no tta_model and no tta_pipeline: the usual is taken, a picture and its mirror image' in said
    assert list(plain) == list(both) and len(plain) == 4
    assert all(len(found['scores']) == 100 for found in (*plain.values(), *both.values()))
    assert any((both[i]['scores'] != plain[i]['scores']).any() for i in plain)


def test_tta_takes_the_views_of_the_config(trained):
    "One view to which nothing is done is the plain test, bit by bit; six views of MMDetection's kind run as well."
    folder, options = trained
    options = options + ['model.bbox_head.postprocess.score_thr=0.']
    text = """_base_ = 'BASE'
tta_model = dict(type='DetTTAModel', tta_cfg=dict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=MAX))
tta_pipeline = [dict(type='LoadImageFromFile', backend_args=None), dict(type='TestTimeAug', transforms=[
    [dict(type='Resize', scale=s, keep_ratio=True) for s in SCALES], MIRRORS [dict(type='LoadAnnotations', with_bbox=True)],
    [dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'flip', 'flip_direction'))]])]
""".replace('BASE', str(find_config('retinanet_r18-slim_samples')))
    (folder / 'one.py').write_text(text.replace('MAX', '100').replace('SCALES', '[(256, 256)]').replace('MIRRORS', ''))
    mirrors = "[dict(type='RandomFlip', prob=1.), dict(type='RandomFlip', prob=0.)],"
    (folder / 'six.py').write_text(text.replace('MAX', '250').replace('SCALES', '[(256, 256), (128, 128), (384, 384)]').replace('MIRRORS', mirrors))
    plain, _ = found_by(folder, options, 'one.py', 'plain.pkl')
    one, said = found_by(folder, options, 'one.py', 'one.pkl', '--tta')
    assert 'tta_' not in said
    for i in plain: assert all((plain[i][k] == one[i][k]).all() for k in ('bboxes', 'scores', 'labels'))
    six, _ = found_by(folder, options, 'six.py', 'six.pkl', '--tta')
    assert all(100 < len(found['scores']) <= 250 for found in six.values())                # more than one view could give


def test_tta_of_a_checkpoint_that_does_not_fit_is_an_error(trained):
    import torch
    folder, options = trained
    whole = torch.load(folder / 'out/epoch_1.pth', weights_only=False)
    whole['state_dict'] = {k: v for k, v in whole['state_dict'].items() if 'retina_cls' not in k}
    torch.save(whole, folder / 'torn.pth')
    done = learndet('test', 'retinanet_r18-slim_samples', 'torn.pth', '--tta', '--cfg-options', *options, cwd=folder)
    assert done.returncode == 1 and 'bbox_head.retina_cls' in done.stderr and 'of RetinaNet are not in torn.pth' in done.stderr.replace('SingleStageDetector', 'RetinaNet')


def test_mistakes_end_in_one_line(tmp_path):
    data = [f'{part}_dataloader.dataset.data_root={samples_dir()}' for part in ('train', 'val', 'test')]
    done = learndet('train', 'retinanet_r18-slim_samples', '--cfg-options', *data, 'model.bbox_head.anchor_generator.strdes=[8]', cwd=tmp_path)
    assert done.returncode == 1 and 'Traceback' not in done.stderr
    assert 'model.bbox_head.anchor_generator' in done.stderr and 'strides' in done.stderr          # the path and the nearest key: 5a
    done = learndet('config', 'nothing_like_this', cwd=tmp_path)
    assert done.returncode == 1 and 'retinanet_r50_fpn_1x_coco' in done.stderr and '__init__' not in done.stderr
    done = learndet('config', 'retinanet_r50_fpn_1x', cwd=tmp_path)
    assert 'did you mean retinanet_r50_fpn_1x_coco?' in done.stderr


def test_no_validate_leaves_validation_out(monkeypatch):
    from learndet.tools import cli, commands
    seen = []
    monkeypatch.setattr(commands.Runner, 'from_cfg', lambda cfg: seen.append(cfg) or type('Run', (), dict(train=lambda self: None))())
    for words in ([], ['--no-validate']): assert cli.main(['train', 'retinanet_r18-slim_samples', *words]) == 0
    assert [key in cfg for cfg in seen for key in commands.VALIDATION] == [True] * 3 + [False] * 3 and 'test_dataloader' in seen[1]


def test_commands_leave_a_config_that_is_handed_over_as_it_is(trained):
    from learndet.tools.commands import read_config, test
    folder, options = trained
    cfg = read_config('retinanet_r18-slim_samples', options)
    before = cfg.to_dict()
    test(cfg, folder / 'out/epoch_1.pth', work_dir=str(folder / 'again'))
    assert cfg.to_dict() == before


def test_config_prints_where_values_come_from(tmp_path):
    done = learndet('config', 'retinanet_r50_fpn_1x_coco', '--cfg-options', 'optim_wrapper.optimizer.lr=0.5', cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    line = next(line for line in done.stdout.splitlines() if 'optim_wrapper.optimizer.lr' in line)
    assert '0.5' in line and '--cfg-options' in line
    assert 'schedule_1x.py' in done.stdout
