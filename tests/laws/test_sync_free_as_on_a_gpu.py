"""The cases of `tests/gpu` without a GPU: tensors that only say they are on one, and a guard that knows what would wait.

`tests/laws/test_sync_free.py` sees operations whose shape depends on values. This one also sees what exists only between two devices: a
copy to or from the GPU that the host waits for, an index that lies on the wrong side.
"""
import sys
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

sys.path[:0] = [str(Path(__file__).parents[1] / 'gpu'), str(Path(__file__).parents[1] / 'runs')]
from sync_cases import CASES
from test_overfit import DETECTORS
from test_sync_free import NoSync

from learndet.zoo.by_heart import four_samples


def torch_lets_claim():
    "Whether a tensor may say it is on a GPU where no driver is; torch 2.6 asks the driver all the same."
    try:
        with FakeTensorMode(allow_non_fake_inputs=True): torch.rand(4, 4, device='cuda').new_tensor([1.])
    except RuntimeError as error:
        if 'driver' in str(error).lower(): return False
        raise
    return True


OLD = torch.__version__.split('.')[:2] == ['2', '6'] and not torch_lets_claim()
pytestmark = pytest.mark.skipif(OLD, reason='torch 2.6 asks for a CUDA driver even where a tensor only claims to be on a GPU; newer ones do not')


class TwoDevices(TorchDispatchMode):
    "Raise on a blocking copy between devices, and on indices that would have to be copied."
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs, name = kwargs or {}, str(func)
        if name.startswith('aten._to_copy'):
            before, after = args[0].device.type, torch.device(kwargs.get('device') or args[0].device).type
            if before != after and not (after == 'cuda' and kwargs.get('non_blocking')): raise AssertionError(f'a copy {before} -> {after} waits')
        if name.startswith('aten.copy_') and args[0].device != args[1].device and args[1].dim(): raise AssertionError('copy_ waits')
        if name.startswith(('aten.index.', 'aten.index_put')):
            if any(i is not None and i.dim() and i.device != args[0].device for i in args[1]): raise AssertionError('the index is copied first')
        return func(*args, **kwargs)


@pytest.mark.parametrize('waits', [
    lambda x: x.new_tensor([1., 2.]), lambda x: torch.tensor([1., 2.], device='cuda'), lambda x: x[torch.tensor([0, 1])], lambda x: x.cpu(),
    lambda x: torch.as_tensor((3, 4)).to(x), lambda x: float(x.sum()), lambda x: x.to('cpu', non_blocking=True)])
def test_the_guard_sees(waits):
    with FakeTensorMode(allow_non_fake_inputs=True):
        x = torch.rand(4, 4, device='cuda')
        with pytest.raises(AssertionError), NoSync(), TwoDevices(): waits(x)
        with NoSync(), TwoDevices(): torch.tensor([1., 2.]).to(x.device, non_blocking=True) * x[:, :2]


@pytest.mark.parametrize('name', CASES)
def test_nothing_waits(name):
    with FakeTensorMode(allow_non_fake_inputs=True):
        part = CASES[name]('cuda')
        with NoSync(), TwoDevices(): part()


def move(model):
    "Parameters and buffers that say they are on a GPU."
    for part in model.modules():
        for name, p in part._parameters.items(): part._parameters[name] = p if p is None else torch.nn.Parameter(torch.empty(p.shape, device='cuda'))
        for name, b in part._buffers.items(): part._buffers[name] = b if b is None else torch.empty(b.shape, dtype=b.dtype, device='cuda')


def losses_of(name):
    "From a batch of the loader to the losses of a detector in training, under the guards."
    (_, batch), model = four_samples(), DETECTORS[name]()
    model.train().preprocess(batch, True)                              # the first batch is looked at
    with FakeTensorMode(allow_non_fake_inputs=True):
        move(model)
        with NoSync(), TwoDevices(): return model(**model.preprocess(batch, True), mode='loss')


def test_losses_of_a_one_stage_detector():
    assert all(loss.device.type == 'cuda' for loss in losses_of('retinanet').values())


def test_the_losses_of_a_two_stage_detector_wait_where_they_say(monkeypatch):
    "With suppression answered (everything survives), the first wait is for how many regions each level reads."
    import learndet.structures.nms as suppression
    monkeypatch.setattr(suppression, '_survivors_at_once', lambda bboxes, scores, groups, valid, iou_threshold: valid)
    with pytest.raises(AssertionError, match='_local_scalar_dense') as error: losses_of('faster_rcnn')
    assert any('tolist' in str(entry.statement) for entry in error.traceback if entry.path.name == 'roi_extractor.py')
