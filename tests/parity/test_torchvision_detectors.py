"The same weights and pictures through torchvision's detectors and through ours give the same detections."
import pytest
import torch

torchvision = pytest.importorskip('torchvision', reason='torchvision is not installed: there is nothing to compare with')
from torchvision.models.detection import fasterrcnn_resnet50_fpn, retinanet_resnet50_fpn

from learndet.models.backbones.resnet import ResNet
from learndet.models.dense_heads.retina_head import RetinaHead
from learndet.models.detectors.single_stage import RetinaNet
from learndet.models.necks.fpn import FPN
from learndet.models.roi_heads.roi_align import RoIAlign
from learndet.models.weights import convert_torchvision_fasterrcnn, convert_torchvision_retinanet, torchvision_base_anchors
from learndet.structures.instance_data import DetDataSample
from learndet.structures.nms import NMS, PostProcess
from learndet.task_modules.prior_generators.anchor_generator import AnchorGenerator
from learndet.zoo.faster_rcnn import faster_rcnn

K, SIZE = 5, (256, 384)


@pytest.fixture(scope='module')
def pictures():
    return torch.rand(2, 3, *SIZE, generator=torch.Generator().manual_seed(0))


def randomise(model, seed=0):
    "Random weights that give scores apart from each other, and running statistics that are not the trivial ones."
    generator = torch.Generator().manual_seed(seed)
    for name, p in list(model.named_parameters()) + list(model.named_buffers()):
        if not p.is_floating_point(): continue
        with torch.no_grad():
            if 'running_var' in name or ('bn' in name and name.endswith('weight')): p.uniform_(.6, 1.1, generator=generator)
            elif p.dim() > 1: p.normal_(0, (1.7 / p[0].numel()) ** .5, generator=generator)
            elif name.startswith('backbone'): p.uniform_(-.1, .1, generator=generator)
            if 'bbox_reg.' in name or 'bbox_pred.' in name: p.mul_(.1)                    # boxes stay near their anchors
    return model.eval()


def samples():
    return [DetDataSample(metainfo=dict(img_shape=SIZE, ori_shape=SIZE, pad_shape=SIZE, batch_input_shape=SIZE, scale_factor=(1., 1.)))
            for _ in range(2)]


def same_detections(ours, theirs, offset):
    "As many, with the same sorted scores, and each of theirs found among ours."
    for mine, their in zip(ours, theirs):
        mine = mine.pred_instances
        assert len(mine) == len(their['scores']) > 20
        torch.testing.assert_close(mine.scores, their['scores'], atol=2e-5, rtol=1e-4)
        near = torch.cdist(their['boxes'], mine.bboxes, p=float('inf'))                       # (D, D)
        near[(their['labels'] - offset)[:, None] != mine.labels[None]] = float('inf')
        assert (near.amin(1) < 2e-2).float().mean() > .995                                    # equal scores may be cut differently


def test_retinanet(pictures):
    theirs = randomise(retinanet_resnet50_fpn(weights=None, weights_backbone=None, num_classes=K, min_size=SIZE[0], max_size=SIZE[1],
                                              image_mean=[0., 0, 0], image_std=[1., 1, 1], score_thresh=0.3))
    backbone = ResNet(50)
    head = RetinaHead(K, 256, anchor_generator=AnchorGenerator([8, 16, 32, 64, 128], ratios=[.5, 1., 2.], octave_base_scale=4, scales_per_octave=3),
                      postprocess=PostProcess(score_thr=.3, nms_pre=1000, nms=NMS(.5), max_per_img=300, min_bbox_size=-1))
    ours = RetinaNet(backbone, FPN(backbone.out_channels, 256, num_outs=5, start_level=1, add_extra_convs='on_output',
                                   relu_before_extra_convs=True), head).eval()
    sizes = [(x, int(x * 2 ** (1 / 3)), int(x * 2 ** (2 / 3))) for x in (32, 64, 128, 256, 512)]
    head.anchor_generator.base_anchors = torchvision_base_anchors(sizes)
    state = convert_torchvision_retinanet(theirs.state_dict(), classes=range(K))      # its class 0 competes like any other
    missing = ours.load_state_dict(state, strict=False)
    assert not missing.unexpected_keys and not [k for k in missing.missing_keys if 'num_batches_tracked' not in k]
    with torch.no_grad():
        same_detections(ours(pictures, samples(), mode='predict'), theirs(list(pictures)), offset=0)


def test_faster_rcnn(pictures):
    theirs = randomise(fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=K + 1, min_size=SIZE[0], max_size=SIZE[1],
                                               image_mean=[0., 0, 0], image_std=[1., 1, 1], box_score_thresh=.2))
    ours = faster_rcnn(num_classes=K).eval()
    ours.rpn_head.anchor_generator.base_anchors = torchvision_base_anchors([(32,), (64,), (128,), (256,), (512,)])
    for layer in ours.roi_head.bbox_roi_extractor.roi_layers: layer.sampling_ratio, layer.aligned = 2, False      # torchvision's own
    ours.roi_head.postprocess.score_thr = .2
    missing = ours.load_state_dict(convert_torchvision_fasterrcnn(theirs.state_dict()), strict=False)
    assert not missing.unexpected_keys and not [k for k in missing.missing_keys if 'num_batches_tracked' not in k]
    with torch.no_grad():
        same_detections(ours(pictures, samples(), mode='predict'), theirs(list(pictures)), offset=1)
