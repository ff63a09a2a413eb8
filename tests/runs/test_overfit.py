"Each detector learns four pictures by heart: AP50 of at least 0.95 on them."
import pytest
import torch

from learndet.core.samples import samples_dir
from learndet.data.coco import CocoDataset
from learndet.data.preprocessor import DetDataPreprocessor
from learndet.data.samplers import pseudo_collate
from learndet.data.transforms.formatting import PackDetInputs
from learndet.data.transforms.geometric import Resize
from learndet.data.transforms.loading import LoadAnnotations, LoadImageFromFile
from learndet.evaluation.coco_metric import CocoMetric
from learndet.models.backbones.resnet import ResNet
from learndet.zoo.faster_rcnn import faster_rcnn
from learndet.zoo.retinanet import retinanet


def four_pictures():
    pipeline = [LoadImageFromFile(), LoadAnnotations(with_bbox=True), Resize(scale=(128, 128), keep_ratio=True), PackDetInputs()]
    whole = CocoDataset(ann_file='train.json', data_root=str(samples_dir()), data_prefix=dict(img='JPEGImages/'), pipeline=pipeline)
    picked = [i for i in range(len(whole)) if 2 <= len(whole.get_data_info(i)['instances']) <= 5][:4]
    return whole.subset(picked)


def slim(): return ResNet(18, base_channels=16, stem_channels=16, norm_eval=False)


def preprocessor():
    return DetDataPreprocessor(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True, pad_size_divisor=32)


DETECTORS = dict(
    retinanet=lambda: retinanet(num_classes=3, backbone=slim(), anchor_scale=2., channels=32, stacked_convs=1, data_preprocessor=preprocessor()),
    faster_rcnn=lambda: faster_rcnn(num_classes=3, backbone=slim(), anchor_scale=4., channels=32, fc_out_channels=128, num_proposals=100,
                                    num_regions=64, data_preprocessor=preprocessor()))


@pytest.mark.parametrize('name', DETECTORS)
def test_overfits_four_pictures(name):
    torch.manual_seed(1)
    dataset, model = four_pictures(), DETECTORS[name]()
    batch = pseudo_collate([dataset[i] for i in range(4)])
    model.init_weights(); model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=150)
    for _ in range(150):
        losses = model(**model.preprocess(batch, True), mode='loss')
        optimizer.zero_grad(); sum(v for k, v in losses.items() if 'loss' in k).backward()
        optimizer.step(); schedule.step()
    model.eval()
    metric = CocoMetric(metric='bbox')
    metric.set_ground_truth(dataset.ground_truth())
    metric.process(model.val_step(batch))
    found = metric.evaluate()
    assert found['coco/bbox_mAP_50'] >= .95, found
