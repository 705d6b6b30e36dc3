# AdamW for small networks from scratch: 100 iterations of warm-up, then poly decay.
optim_wrapper = dict(
    type='OptimWrapper',
    constructor='SemiOptimWrapperConstructor',
    optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.01),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=100),
    dict(type='PolyLR', power=0.9, eta_min=0.0, by_epoch=True, convert_to_iter_based=True),
]
train_cfg = dict(by_epoch=True, max_epochs=93, val_interval=1)
# How many images in all, labeled and unlabeled, the rate is meant for; --auto-scale-lr adapts it to other batches.
auto_scale_lr = dict(enable=False, base_batch_size=8)
