# AdamW with a warm-up, a cosine down to a hundredth, and an average of the weights: for short trainings from random weights.
max_epochs = 20
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=max_epochs, val_interval=max_epochs)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=0.002, weight_decay=0.05), clip_grad=dict(max_norm=10),
                     paramwise_cfg=dict(norm_decay_mult=0., bias_decay_mult=0.))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=100),
    dict(type='CosineAnnealingLR', T_max=max_epochs, by_epoch=True, convert_to_iter_based=True, eta_min_ratio=0.01)]
custom_hooks = [dict(type='EMAHook', ema_type='ExponentialMovingAverage', momentum=0.01)]
