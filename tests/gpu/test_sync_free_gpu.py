"""On a real GPU nothing of a training step makes the host wait, but for what says so: suppression once, and reading regions once.

`torch.cuda.set_sync_debug_mode('error')` turns every wait into an error. Without a GPU the same cases run in
`tests/laws/test_sync_free_as_on_a_gpu.py`, and the steps in `tests/laws/test_sync_free_steps.py`, under guards of our own.
"""
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / 'runs')]
from sync_cases import CASES                                                                  # noqa: E402
from test_overfit import DETECTORS                                                            # noqa: E402

import learndet.structures.nms as suppression                                                 # noqa: E402
from learndet.zoo.by_heart import four_samples                                                # noqa: E402

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device, and torch sees none here')


@contextmanager
def no_waiting(mode='error'):
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode(mode)
    try: yield
    finally: torch.cuda.set_sync_debug_mode(before)


@pytest.mark.parametrize('waits', [lambda x: x.nonzero(), lambda x: x.sum().item(), lambda x: x[x > 0], lambda x: x.cpu(), lambda x: x.new_tensor([1., 2.])])
def test_the_guard_sees(waits):
    x = torch.rand(4, device='cuda')
    with pytest.raises(RuntimeError, match='synchronizing'), no_waiting(): waits(x)


@pytest.mark.parametrize('name', CASES)
def test_nothing_waits(name):
    part = CASES[name]('cuda')
    part()                                                      # the first call may load kernels and fill caches
    with no_waiting(): part()


def counted(monkeypatch, owner, name, counts):
    "Let one function wait, and count its calls with tensors of the GPU."
    function = getattr(owner, name)
    def allowed(first, *args, **kwargs):
        counts[name] = counts.get(name, 0) + first.is_cuda
        with no_waiting('default'): return function(first, *args, **kwargs)
    monkeypatch.setattr(owner, name, allowed)


@pytest.mark.parametrize('name, waits', [('retinanet', {}), ('faster_rcnn', dict(nms=1, tolist=1))])
def test_train_step(name, waits, monkeypatch):
    "Faster R-CNN waits twice: for the survivors of suppression, and for how many regions each level reads."
    torch.manual_seed(0)
    (_, batch), model, counts = four_samples(), DETECTORS[name](), {}
    model.init_weights(); model.cuda().train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)

    def step():
        losses = model(**model.preprocess(batch, True), mode='loss')
        optimizer.zero_grad(); sum(v for k, v in losses.items() if 'loss' in k).backward()
        optimizer.step()
        return losses

    step(), step()                                              # kernels are chosen, priors are made, the first batch is looked at
    if waits: counted(monkeypatch, suppression, 'nms', counts), counted(monkeypatch, torch.Tensor, 'tolist', counts)
    with no_waiting(): losses = step()
    assert counts == waits
    assert all(torch.isfinite(v).all() for k, v in losses.items() if 'loss' in k)
