# RetinaNet small enough for a CPU: a ResNet-18 of half width, three levels of 64 channels, two convolutions a tower.
_base_ = './retinanet_r50_fpn.py'

model = dict(
    data_preprocessor=dict(channels_last=True),
    backbone=dict(depth=18, base_channels=32, stem_channels=32, out_indices=(1, 2, 3), frozen_stages=-1, norm_eval=False, init_cfg=None),
    neck=dict(in_channels=[64, 128, 256], out_channels=64, start_level=0, add_extra_convs=False, num_outs=3, norm_cfg=dict(type='BN')),
    bbox_head=dict(
        in_channels=64, feat_channels=64, stacked_convs=2, norm_cfg=dict(type='BN'),
        anchor_generator=dict(strides=[8, 16, 32], octave_base_scale=2.5, scales_per_octave=3, ratios=[0.75, 1.0, 1.33]),
        reg_decoded_bbox=True, loss_bbox=dict(_delete_=True, type='GIoULoss', loss_weight=2.0)))
