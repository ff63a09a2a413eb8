# Cascade R-CNN (arXiv:1712.00726): three box heads in a row behind the first stage of Faster R-CNN.
_base_ = ['faster-rcnn_r50_fpn.py']
model = dict(
    type='CascadeRCNN',
    rpn_head=dict(
        allowed_border=0, loss_bbox=dict(_delete_=True, type='SmoothL1Loss', beta=1.0 / 9.0, loss_weight=1.0),
        train_proposals=dict(max_per_img=2000)),
    roi_head=dict(
        _delete_=True, type='CascadeRoIHead', num_stages=3, stage_loss_weights=[1, 0.5, 0.25],
        bbox_roi_extractor=dict(
            type='SingleRoIExtractor', roi_layer=dict(type='RoIAlign', output_size=7, sampling_ratio=0), out_channels=256,
            featmap_strides=[4, 8, 16, 32]),
        bbox_head=[
            dict(type='Shared2FCBBoxHead', in_channels=256, fc_out_channels=1024, roi_feat_size=7,
                 bbox_coder=dict(type='DeltaXYWHBBoxCoder', target_means=[0., 0., 0., 0.], target_stds=stds), reg_class_agnostic=True,
                 loss_cls=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
                 loss_bbox=dict(type='SmoothL1Loss', beta=1.0, loss_weight=1.0))
            for stds in ([0.1, 0.1, 0.2, 0.2], [0.05, 0.05, 0.1, 0.1], [0.033, 0.033, 0.067, 0.067])],
        assigner=[dict(type='MaxIoUAssigner', pos_iou_thr=thr, neg_iou_thr=thr, min_pos_iou=thr, match_low_quality=False, ignore_iof_thr=0.5)
                  for thr in (0.5, 0.6, 0.7)],
        sampler=dict(type='RandomSampler', num=512, pos_fraction=0.25, neg_pos_ub=-1, add_gt_as_proposals=True),
        postprocess=dict(type='PostProcess', score_thr=0.05, nms=dict(type='NMS', iou_threshold=0.5), max_per_img=100)))
