"What is written about a picture is written to a file of its own, and over nothing of the user's."
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from learndet.structures.instance_data import DetDataSample, InstanceData
from learndet.tools import commands, inferencer
from learndet.tools.commands import browse, picture_files, predict, read_config


def sample(path, score=.9):
    return DetDataSample(metainfo=dict(img_path=str(path)), pred_instances=InstanceData(
        bboxes=torch.tensor([[1., 1, 9, 9]]), scores=torch.tensor([score]), labels=torch.tensor([0])))


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    "a/1.jpg, b/1.jpg, b/1.png and b/2.png, each in a grey of its own, and a detector that needs no weights."
    monkeypatch.chdir(tmp_path)
    made = [Path(name) for name in ('a/1.jpg', 'b/1.jpg', 'b/1.png', 'b/2.png')]
    for i, path in enumerate(made):
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(np.full((20, 30, 3), 60 * i, dtype=np.uint8)).save(path)
    for module in (commands, inferencer):
        monkeypatch.setattr(module, 'init_detector', lambda *args: SimpleNamespace(dataset_meta=dict(classes=('a',))))
        monkeypatch.setattr(module, 'inference_detector', lambda model, files, size: [sample(f, .5 + i / 10) for i, f in enumerate(files)])
    return made


def greys(folder): return {p.name: np.asarray(Image.open(p).convert('L'))[-2, -2] // 55 for p in sorted(Path(folder).iterdir())}


def test_predict_draws_every_picture(pictures):
    predict('retinanet_r18-slim_samples', 'none.pth', ['a', 'b'], out_dir='vis')
    assert greys('vis') == {'2.png': 3, 'a_1.jpg.png': 0, 'b_1.jpg.png': 1, 'b_1.png.png': 2}


def test_predict_writes_over_nothing_in_the_folder_of_the_pictures(pictures):
    before = {p: p.read_bytes() for p in pictures}
    predict('retinanet_r18-slim_samples', 'none.pth', ['b/1.jpg', 'b/2.png'], out_dir='b')
    assert {p: p.read_bytes() for p in pictures} == before
    assert sorted(p.name for p in Path('b').iterdir()) == ['1.jpg', '1.png', '1_2.png', '2.png', '2_2.png']


def test_the_inferencer_keeps_every_list(pictures):
    out = inferencer.DetInferencer('retinanet_r18-slim_samples', device='cpu')(pictures, out_dir='out', no_save_pred=False)
    scores = {p.name: round(json.loads(p.read_text())['scores'][0], 1) for p in Path('out/preds').iterdir()}
    assert scores == {'a_1.jpg.json': .5, 'b_1.jpg.json': .6, 'b_1.png.json': .7, '2.json': .8}
    assert [p.name for p in out['visualization']] == ['a_1.jpg.png', 'b_1.jpg.png', 'b_1.png.png', '2.png'] and len(set(greys('out/vis'))) == 4


def test_a_test_draws_every_picture(pictures):
    class Data(list):
        metainfo = dict(classes=('a',))
        def get_data_info(self, i): return dict(img_path=str(self[i]))
    keeper, run = commands.KeepPredictions(show_dir='vis'), SimpleNamespace(test_dataloader=SimpleNamespace(dataset=Data(pictures)))
    for path in reversed(pictures): keeper.after_test_iter(run, 0, outputs=[sample(path)])
    assert greys('vis') == {'2.png': 3, 'a_1.jpg.png': 0, 'b_1.jpg.png': 1, 'b_1.png.png': 2}


def test_browse_keeps_every_picture(pictures):
    data = [dict(img_path=str(p), height=20, width=30, bboxes=[[1, 1, 9, 9]], labels=[0]) for p in pictures]
    cfg = read_config('retinanet_r18-slim_samples').to_dict()
    pipeline = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True), dict(type='PackDetInputs')]
    cfg['train_dataloader']['dataset'] = dict(type='ListDataset', data=data, classes=('a',), pipeline=pipeline)
    assert [p.name for p in browse(cfg, 'seen')] == ['a_1.jpg.png', 'b_1.jpg.png', 'b_1.png.png', '2.png'] and len(greys('seen')) == 4


names = st.text('aB1._', min_size=1, max_size=3).filter(lambda n: n.strip('.'))
paths = st.lists(st.tuples(st.lists(names, max_size=3), names, st.sampled_from(['.jpg', '.png'])).map(lambda p: '/'.join([*p[0], p[1] + p[2]])), max_size=8)

@settings(max_examples=200, deadline=None)
@given(paths)
def test_no_two_are_the_same_and_stems_stay_where_they_differ(paths):
    files = picture_files(paths, 'somewhere')
    assert len({f.name.casefold() for f in files}) == len(paths) and all(f.parent == Path('somewhere') for f in files)
    stems = [Path(p).stem.casefold() for p in paths]
    for path, file in zip(paths, files):
        if stems.count(Path(path).stem.casefold()) == 1: assert file.name == f'{Path(path).stem}.png'
