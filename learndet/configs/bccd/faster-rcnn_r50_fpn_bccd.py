# The full faster-rcnn recipe at 800 × 1333 on real photographs of blood cells; wants a GPU.
_base_ = ['../_base_/models/faster-rcnn_r50_fpn.py', '../_base_/datasets/bccd.py',
          '../_base_/schedules/schedule_1x.py', '../_base_/default_runtime.py']

model = dict(backbone=dict(frozen_stages=-1, norm_eval=False, init_cfg=None))      # from random weights, so nothing is frozen
train_cfg = dict(max_epochs=60, val_interval=10)
optim_wrapper = dict(
    _delete_=True, type='AmpOptimWrapper', dtype='bfloat16', optimizer=dict(type='AdamW', lr=0.0003, weight_decay=0.05),
    clip_grad=dict(max_norm=10))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=200),
    dict(type='CosineAnnealingLR', T_max=60, by_epoch=True, convert_to_iter_based=True, eta_min_ratio=0.01)]
