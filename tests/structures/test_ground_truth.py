"Ground truth as rectangles: nothing is lost, nothing depends on the padding, no gradient, few copies."
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from learndet.structures.ground_truth import GroundTruth, pad_ground_truth, padded_size
from learndet.structures.instance_data import DetDataSample, InstanceData


def sample(n, ignored=None, b=0):
    out = DetDataSample(metainfo=dict(img_id=b), gt_instances=InstanceData(bboxes=torch.rand(n, 4), labels=torch.randint(0, 9, (n,))))
    if ignored is not None: out.ignored_instances = InstanceData(bboxes=torch.rand(ignored, 4), labels=torch.zeros(ignored).long())
    return out


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 20), st.none() | st.integers(0, 3)), min_size=1, max_size=5))
def test_nothing_is_lost(counts):
    samples = [sample(n, ignored, b) for b, (n, ignored) in enumerate(counts)]
    gt = pad_ground_truth(samples)
    assert len(gt) == len(samples) and gt.bboxes.shape[1] in (8, 16, 32)
    assert gt.ignored_bboxes.shape[1] == (8 if any(ignored for _, ignored in counts) else 0)
    assert gt.labels.dtype == torch.long and gt.valid.dtype == gt.ignored_valid.dtype == torch.bool and gt.bboxes.dtype == torch.float32
    for b, (each, (n, ignored)) in enumerate(zip(samples, counts)):
        assert gt.valid[b].tolist() == [True] * n + [False] * (gt.valid.shape[1] - n)
        assert torch.equal(gt.bboxes[b, :n], each.gt_instances.bboxes) and torch.equal(gt.labels[b, :n], each.gt_instances.labels)
        assert not gt.bboxes[b, n:].any() and not gt.labels[b, n:].any()
        assert gt.ignored_valid[b].sum() == (ignored or 0)
        if ignored: assert torch.equal(gt.ignored_bboxes[b, :ignored], each.ignored_instances.bboxes)


@given(st.integers(0, 2000))
def test_few_sizes(n):
    size = padded_size(n, (8, 16, 32, 64, 128))
    assert size >= max(n, 1) and (size in (8, 16, 32, 64, 128) or (size % 128 == 0 and size - n < 128))


def test_own_sizes_types_and_gradients():
    one = sample(3)
    one.gt_instances = InstanceData(bboxes=torch.rand(3, 4, dtype=torch.float64, requires_grad=True), labels=torch.arange(3).int())
    gt = pad_ground_truth([one], sizes=(3,))
    assert gt.bboxes.shape == (1, 3, 4) and gt.bboxes.dtype == torch.float32 and not gt.bboxes.requires_grad and gt.labels.dtype == torch.long


def test_one_copy_a_field():
    class Copies(TorchDispatchMode):
        count = 0
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.count += '_to_copy' in func.__name__
            return func(*args, **(kwargs or {}))
    gt = pad_ground_truth([sample(n, 1) for n in (3, 0, 9, 4)])
    with Copies() as watch: moved = gt.to('meta')
    assert watch.count == 5 and isinstance(moved, GroundTruth) and moved.valid.device.type == 'meta' and gt.valid.device.type == 'cpu'


@pytest.mark.parametrize('broken', [DetDataSample(metainfo=dict(img_id=7)),
                                    DetDataSample(metainfo=dict(img_id=7), gt_instances=InstanceData(bboxes=torch.zeros(1, 4)))])
def test_a_sample_without_truth_is_named(broken):
    with pytest.raises(ValueError, match=r'sample 1 of the batch \(img_id 7\)'): pad_ground_truth([sample(2), broken])
