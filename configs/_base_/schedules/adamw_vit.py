# UniMatch V2's recipe for DINOv2: AdamW, 5e-6 for the encoder and 40 times that for the rest, weight decay on all
# parameters, poly decay from the first iteration on.
optim_wrapper = dict(
    type='OptimWrapper',
    constructor='SemiOptimWrapperConstructor',
    optimizer=dict(type='AdamW', lr=5e-6, betas=(0.9, 0.999), weight_decay=0.01),
    paramwise_cfg=dict(
        custom_keys={
            'decode_head': dict(lr_mult=40.0),
            'auxiliary_head': dict(lr_mult=40.0),
            'heads.': dict(lr_mult=40.0),
        }
    ),
)
param_scheduler = [dict(type='PolyLR', power=0.9, eta_min=0.0, by_epoch=True, convert_to_iter_based=True)]
train_cfg = dict(by_epoch=True, max_epochs=60, val_interval=1)
# How many images in all, labeled and unlabeled, the rate is meant for; --auto-scale-lr adapts it to other batches.
auto_scale_lr = dict(enable=False, base_batch_size=32)
