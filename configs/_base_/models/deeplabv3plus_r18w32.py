# A ResNet-18 of half width for CPUs, from scratch.
_base_ = './deeplabv3plus_r50.py'
norm_cfg = dict(type='BN', requires_grad=True)
network = dict(
    pretrained=None,
    backbone=dict(depth=18, base_channels=32, stem_channels=32, norm_cfg=norm_cfg, zero_init_residual=True),
    decode_head=dict(in_channels=256, low_level_in_channels=32, low_level_channels=16, channels=64, norm_cfg=norm_cfg),
)
