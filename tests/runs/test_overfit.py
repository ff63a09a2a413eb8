"Each detector learns four pictures by heart: AP50 of at least 0.95 on them."
import pytest
import torch

from learndet.evaluation.coco_metric import CocoMetric
from learndet.zoo.by_heart import four_samples, learn_by_heart, sample_preprocessor, slim_resnet
from learndet.zoo.cascade_rcnn import cascade_rcnn
from learndet.zoo.faster_rcnn import faster_rcnn
from learndet.zoo.mask_rcnn import mask_rcnn
from learndet.zoo.retinanet import retinanet

SLIM = dict(num_classes=3, channels=32)
TWO_STAGES = dict(**SLIM, anchor_scale=4., fc_out_channels=128, num_proposals=100, num_regions=64)


def parts(): return dict(backbone=slim_resnet(), data_preprocessor=sample_preprocessor(pad_mask=True))


DETECTORS = dict(
    retinanet=lambda: retinanet(**SLIM, anchor_scale=2., stacked_convs=1, **parts()),
    faster_rcnn=lambda: faster_rcnn(**TWO_STAGES, **parts()),
    mask_rcnn=lambda: mask_rcnn(**TWO_STAGES, num_convs=2, **parts()),
    cascade_rcnn=lambda: cascade_rcnn(**TWO_STAGES, **parts()))


@pytest.mark.parametrize('name', DETECTORS)
def test_overfits_four_pictures(name):
    torch.manual_seed(1)
    dataset, batch = four_samples(with_mask=name == 'mask_rcnn')
    model = DETECTORS[name]()
    learn_by_heart(model, batch, steps=150 if name == 'retinanet' else 100)
    metric = CocoMetric(metric=['bbox', 'segm'] if name == 'mask_rcnn' else 'bbox')
    metric.set_ground_truth(dataset.ground_truth())
    metric.process(model.val_step(batch))
    found = metric.evaluate()
    for kind in metric.metrics: assert found[f'coco/{kind}_mAP_50'] >= .9, found
