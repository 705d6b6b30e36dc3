# UniMatch V2's recipe for DINOv2: AdamW, a small rate for the backbone, heads x40.
_base_ = './adamw_segformer.py'
optim_wrapper = dict(
    optimizer=dict(lr=5e-6),
    paramwise_cfg=dict(custom_keys={'decode_head': dict(lr_mult=40.0), 'heads.': dict(lr_mult=40.0)}),
)
train_cfg = dict(max_epochs=60)
