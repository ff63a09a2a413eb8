"MMDetection's own config files, where they are: set LEARNDET_MMDET_CONFIGS to the folder `configs` of MMDetection 3.3."
import os
from pathlib import Path

import pytest

from learndet.engine.config import Config, ConfigError, check_fields, parse_config_name, stale_variables

ROOT = os.environ.get('LEARNDET_MMDET_CONFIGS')
pytestmark = pytest.mark.skipif(not ROOT or not Path(ROOT).is_dir(), reason='LEARNDET_MMDET_CONFIGS names no folder of MMDetection configs')
WHY_NOT = {'no config': 'its base is missing in MMDetection itself', 'a function definition': 'a script, not a config',
           'package mmpretrain': "inherits another package's config"}


def files(): return sorted(str(p.relative_to(ROOT)) for p in Path(ROOT).rglob('*.py'))


@pytest.fixture(scope='module')
def loaded():
    "All configs that load, and why the others do not."
    configs, refused, here = {}, {}, os.getcwd()
    os.chdir(ROOT)
    try:
        for name in files():
            try: configs[name] = Config.fromfile(name)
            except (ConfigError, FileNotFoundError) as error: refused[name] = str(error)
    finally: os.chdir(here)
    return configs, refused


def test_all_load_but_those_that_cannot(loaded):
    configs, refused = loaded
    assert len(configs) >= .98 * (len(configs) + len(refused))
    assert not {n: e for n, e in refused.items() if not any(why in e for why in WHY_NOT)}


def test_none_has_a_misspelt_field(loaded):
    for config in loaded[0].values(): check_fields(config)


def test_every_tenth_dumps_and_reads_back(loaded):
    for name, config in list(loaded[0].items())[::10]: assert Config.fromstring(config.dump()).to_dict() == config.to_dict(), name


def test_names_are_read(loaded):
    for name in loaded[0]:
        if '_' in Path(name).stem and not name.startswith('_base_'): parse_config_name(name)


def test_known_stale_variables(loaded):
    "Redefined, but not passed on: real slips in MMDetection 3.3."
    for name, path in (('guided_anchoring/ga-fast-rcnn_r50-caffe_fpn_1x_coco.py', 'train_dataloader.dataset.pipeline'),
                       ('simple_copy_paste/mask-rcnn_r50_fpn_rpn-2conv_4conv1fc_syncbn-all_32xb2-ssj-90k_coco.py', 'train_cfg.max_iters')):
        if name in loaded[0]: assert path in [s.path for s in stale_variables(loaded[0][name])]


def test_equal_to_mmengine_where_it_is_installed(loaded):
    mmengine = pytest.importorskip('mmengine.config')
    def strip(x):
        if isinstance(x, dict): return {k: strip(v) for k, v in x.items() if k not in ('_delete_', '_scope_')}
        return type(x)(map(strip, x)) if isinstance(x, (list, tuple)) else x
    for name, config in list(loaded[0].items())[::20]:
        if 'odinw' in name: continue                  # changes what is inherited through a view of it; ours does not
        assert config.to_dict() == strip(mmengine.Config.fromfile(str(Path(ROOT) / name), import_custom_modules=False)._cfg_dict.to_dict()), name
