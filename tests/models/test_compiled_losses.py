"Assignment and loss of a dense head are one graph, with the oldest torch that is allowed, too (2.6 cannot trace `dict | dict`)."
import pytest
import torch

from learndet.models.dense_heads.retina_head import RetinaHead
from learndet.structures.instance_data import DetDataSample, InstanceData


def test_one_graph_from_flattened_maps_to_losses():
    torch.manual_seed(0)
    head = RetinaHead(num_classes=3, in_channels=8, feat_channels=8, stacked_convs=1)
    sample = DetDataSample(metainfo=dict(img_shape=(64, 64), ori_shape=(64, 64), scale_factor=(1., 1.)))
    sample.gt_instances = InstanceData(bboxes=torch.tensor([[5., 5, 40, 40]]), labels=torch.tensor([1]))
    feats = tuple(torch.randn(1, 8, n, n) for n in (8, 4, 2, 1, 1))
    plain = head.loss(feats, [sample])
    head.losses_of = torch.compile(head.losses_of, fullgraph=True, dynamic=False, backend='eager')
    for name, value in head.loss(feats, [sample]).items(): assert value.item() == pytest.approx(plain[name].item(), rel=1e-6)
