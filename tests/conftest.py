"What all tests share: one thread each, and the folder of the layout checks."
import os
import socket
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from hypothesis import settings

settings.register_profile('ci', derandomize=True)          # the same examples at every run, so that a red run can be repeated
if os.environ.get('CI'): settings.load_profile('ci')
sys.path.insert(0, str(Path(__file__).parent / 'layout'))
torch.set_num_threads(1)


@pytest.fixture
def unused_tcp_port():
    "A port of this machine that nobody listens on."
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


@pytest.fixture(scope='session')
def mmdet_configs(tmp_path_factory):
    "The folder with MMDetection 3.3's config files: LEARNDET_MMDET_CONFIGS, or out of the wheel of mmdet, fetched once."
    named = os.environ.get('LEARNDET_MMDET_CONFIGS')
    if named:
        assert Path(named).is_dir(), f'LEARNDET_MMDET_CONFIGS names no folder: {named}'
        return Path(named)
    folder = tmp_path_factory.mktemp('mmdet')
    fetch = [sys.executable, '-m', 'pip', 'download', '-q', '--no-deps', '--disable-pip-version-check', '-d', folder, 'mmdet==3.3.0']
    try: subprocess.run(fetch, check=True, capture_output=True, timeout=120)
    except (subprocess.SubprocessError, OSError):
        pytest.skip('LEARNDET_MMDET_CONFIGS is not set, and pip could not download mmdet==3.3.0')
    with zipfile.ZipFile(next(folder.glob('*.whl'))) as wheel:
        wheel.extractall(folder, [n for n in wheel.namelist() if n.startswith('mmdet/.mim/configs/')])
    return folder / 'mmdet' / '.mim' / 'configs'


@pytest.fixture(scope='session')
def parity():
    "The folder with facts read off MMDetection 3.3: zoo.jsonl.gz, keys.jsonl.gz, golden.jsonl, inputs.py; beside the repository, or named."
    folder = Path(os.environ.get('LEARNDET_PARITY') or Path(__file__).parents[2] / 'shared' / 'parity')
    if not folder.is_dir(): pytest.skip('no facts about MMDetection: LEARNDET_PARITY names no folder, and ../shared/parity is not there')
    return folder
