# SegFormer's and DAFormer's recipe: AdamW, heads x10, no decay on norms and positions, 1,500 iterations of warm-up.
optim_wrapper = dict(
    type='OptimWrapper',
    constructor='SemiOptimWrapperConstructor',
    optimizer=dict(type='AdamW', lr=6e-5, betas=(0.9, 0.999), weight_decay=0.01),
    paramwise_cfg=dict(
        norm_decay_mult=0.0,
        custom_keys={
            'pos_block': dict(decay_mult=0.0),
            'decode_head': dict(lr_mult=10.0),
            'heads.': dict(lr_mult=10.0),
        },
    ),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=1500),
    dict(type='PolyLR', power=0.9, eta_min=0.0, by_epoch=True, convert_to_iter_based=True),
]
train_cfg = dict(by_epoch=True, max_epochs=100, val_interval=1)
# How many images in all, labeled and unlabeled, the rate is meant for; --auto-scale-lr adapts it to other batches.
auto_scale_lr = dict(enable=False, base_batch_size=16)
