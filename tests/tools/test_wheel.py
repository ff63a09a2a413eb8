"What `pip install learndet` puts on a machine is enough to run it, from any folder."
import ast
import configparser
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted(p.relative_to(ROOT).as_posix() for p in (ROOT / 'learndet').rglob('*')
               if p.is_file() and '__pycache__' not in p.parts and p.suffix in ('.py', '.js'))


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
    "The wheel of a copy of this tree, so that nothing is left in it."
    copy, out = tmp_path_factory.mktemp('tree') / 'learndet', tmp_path_factory.mktemp('wheel')
    shutil.copytree(ROOT / 'learndet', copy / 'learndet', ignore=shutil.ignore_patterns('__pycache__'))
    for name in ('setup.py', 'settings.ini', 'pyproject.toml', 'README.md', 'LICENSE', 'MANIFEST.in'): shutil.copy(ROOT / name, copy)
    done = subprocess.run([sys.executable, '-m', 'pip', 'wheel', str(copy), '--no-deps', '--no-build-isolation', '-q', '-w', str(out)],
                          capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return next(out.glob('*.whl'))


def test_the_wheel_holds_configs_and_pages(wheel):
    inside = set(zipfile.ZipFile(wheel).namelist())
    assert not set(FILES) - inside, sorted(set(FILES) - inside)
    assert any(f.endswith('.js') for f in FILES) and any('/configs/_base_/' in f for f in FILES)
    assert not [name for name in inside if not name.startswith(('learndet/', 'learndet-'))]          # no tests, no notebooks


def test_metadata_says_what_settings_say(wheel):
    config = configparser.ConfigParser(delimiters=['='])
    config.read(ROOT / 'settings.ini', encoding='utf-8')
    settings, archive = config['DEFAULT'], zipfile.ZipFile(wheel)
    metadata = archive.read(next(n for n in archive.namelist() if n.endswith('.dist-info/METADATA'))).decode()
    needs = [re.sub(r'\s', '', line.partition(':')[2]) for line in metadata.splitlines() if line.startswith('Requires-Dist:')]
    named = lambda text: {re.split(r'[<>=]', word)[0].lower() for word in text.split()}
    found = {extra: {re.split(r'[<>=;]', n)[0].lower() for n in needs if (f'extra=="{extra}"' in n.replace("'", '"')) == bool(extra)}
             for extra in ('lab', 'dev')}
    plain = {re.split(r'[<>=;]', n)[0].lower() for n in needs if 'extra==' not in n}
    assert plain == named(settings['requirements'])
    assert found['lab'] == named(settings['lab_requirements']) and found['dev'] == found['lab'] | named(settings['dev_requirements'])
    assert f"Requires-Python: >={settings['min_python']}" in metadata
    assert 'learndet = learndet.tools.cli:main' in archive.read(next(n for n in archive.namelist() if n.endswith('entry_points.txt'))).decode()


def test_installed_it_runs_from_another_folder(wheel, tmp_path):
    subprocess.run([sys.executable, '-m', 'pip', 'install', '-q', '--no-deps', '--target', str(tmp_path / 'site'), str(wheel)], check=True, timeout=300)
    (tmp_path / 'elsewhere').mkdir()
    env = dict(os.environ, PYTHONPATH=str(tmp_path / 'site'), HOME=str(tmp_path), XDG_CACHE_HOME=str(tmp_path / 'cache'))
    code = ('import learndet, pathlib, sys; from learndet.tools.cli import main\n'
            f'assert pathlib.Path(learndet.__file__).is_relative_to({str(tmp_path)!r}), learndet.__file__\n'
            'assert main(["env"]) == main(["config", "faster-rcnn_r50_fpn_1x_coco"]) == 0\n'
            'from learndet.visualization.box_canvas import BoxCanvas\n'
            'from learndet.core.samples import coco_file; assert coco_file().exists()\n')
    done = subprocess.run([sys.executable, '-c', code], cwd=tmp_path / 'elsewhere', env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert 'torch' in done.stdout and 'optim_wrapper' in done.stdout


GUARDED = ('psutil', 'scipy', 'wandb', 'skimage')        # asked for by name where they are wanted, with the sentence that says what to install
WITH_LAB = ('anywidget', 'traitlets', 'pandas')          # of the lab extra; traitlets comes with it
NAMES = dict(cv2='opencv-python-headless', PIL='pillow', yaml='pyyaml', skimage='scikit-image')


def imports(path):
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if isinstance(node, ast.Import): yield from (a.name.split('.')[0] for a in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level: yield node.module.split('.')[0]


def test_what_is_imported_is_required():
    settings = configparser.ConfigParser(delimiters=['='])
    settings.read(ROOT / 'settings.ini', encoding='utf-8')
    needs = re.split(r'\s+', re.sub(r'[<>=][^\s]*', '', settings['DEFAULT']['requirements']))
    used = {name for f in FILES if f.endswith('.py') for name in imports(ROOT / f)} - set(sys.stdlib_module_names) - {'learndet'}
    assert not {name for name in used if NAMES.get(name, name) not in needs} - set(GUARDED) - set(WITH_LAB)


def test_the_oldest_python_can_read_it():
    for path in FILES:
        if path.endswith('.py'): ast.parse((ROOT / path).read_text(encoding='utf-8'), path, feature_version=(3, 10))
