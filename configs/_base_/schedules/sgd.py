# SGD with poly decay, one rate for all parameters.
optim_wrapper = dict(
    type='OptimWrapper',
    constructor='SemiOptimWrapperConstructor',
    optimizer=dict(type='SGD', lr=1e-2, momentum=0.9, weight_decay=1e-4),
)
param_scheduler = [dict(type='PolyLR', power=0.9, eta_min=0.0, by_epoch=True, convert_to_iter_based=True)]
train_cfg = dict(by_epoch=True, max_epochs=100, val_interval=1)
# How many images in all, labeled and unlabeled, the rate is meant for; --auto-scale-lr adapts it to other batches.
auto_scale_lr = dict(enable=False, base_batch_size=16)
