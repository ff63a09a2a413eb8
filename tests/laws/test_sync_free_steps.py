"A whole training step asks for no value of a tensor, but for the survivors of suppression."
import sys
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import _disable_current_modes

sys.path.insert(0, str(Path(__file__).parents[1] / 'runs'))
from test_overfit import DETECTORS
from test_sync_free import NoSync

import learndet.structures.nms as suppression
from learndet.zoo.by_heart import four_samples


@pytest.mark.parametrize('name, waits', [('retinanet', 0), ('faster_rcnn', 1)])
def test_train_step(name, waits, monkeypatch):
    torch.manual_seed(0)
    (_, batch), model, survivors, calls = four_samples(), DETECTORS[name](), suppression._survivors, []
    model.init_weights(); model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)

    def allowed(*args):
        with _disable_current_modes(): return calls.append(args) or survivors(*args)

    def step():
        losses = model(**model.preprocess(batch, True), mode='loss')
        optimizer.zero_grad(); sum(v for k, v in losses.items() if 'loss' in k).backward()
        optimizer.step()

    step()
    monkeypatch.setattr(suppression, '_survivors', allowed)
    with NoSync(): step()
    assert len(calls) == waits
