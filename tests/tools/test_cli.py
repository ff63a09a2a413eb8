"The program as a user starts it: in a process of its own, from any folder."
import json
import subprocess
import sys
from pathlib import Path

import pytest

from learndet.core.samples import samples_dir

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


def test_test_and_predict_read_it(trained):
    folder, options = trained
    done = learndet('test', 'retinanet_r18-slim_samples', 'out/epoch_1.pth', '--out', 'found.pkl', '--cfg-options', *options, cwd=folder)
    assert done.returncode == 0 and (folder / 'found.pkl').exists(), done.stderr[-3000:]
    picture = sorted(Path(samples_dir(), 'JPEGImages').glob('val_*'))[0]
    done = learndet('predict', 'retinanet_r18-slim_samples', 'out/epoch_1.pth', picture, '--out-dir', 'vis', '--cfg-options', *options, cwd=folder)
    assert done.returncode == 0 and (folder / f'vis/{picture.stem}.png').exists(), done.stderr[-3000:]
    assert '1 pictures in vis: ' in done.stdout and 'detections have a score above' in done.stdout


def test_mistakes_end_in_one_line(tmp_path):
    data = [f'{part}_dataloader.dataset.data_root={samples_dir()}' for part in ('train', 'val', 'test')]
    done = learndet('train', 'retinanet_r18-slim_samples', '--cfg-options', *data, 'model.bbox_head.anchor_generator.strdes=[8]', cwd=tmp_path)
    assert done.returncode == 1 and 'Traceback' not in done.stderr
    assert 'model.bbox_head.anchor_generator' in done.stderr and 'strides' in done.stderr          # the path and the nearest key: 5a
    done = learndet('config', 'nothing_like_this', cwd=tmp_path)
    assert done.returncode == 1 and 'retinanet_r50_fpn_1x_coco' in done.stderr


def test_config_prints_where_values_come_from(tmp_path):
    done = learndet('config', 'retinanet_r50_fpn_1x_coco', '--cfg-options', 'optim_wrapper.optimizer.lr=0.5', cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    line = next(line for line in done.stdout.splitlines() if 'optim_wrapper.optimizer.lr' in line)
    assert '0.5' in line and '--cfg-options' in line
    assert 'schedule_1x.py' in done.stdout
