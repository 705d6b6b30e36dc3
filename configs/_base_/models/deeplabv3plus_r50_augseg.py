# AugSeg's network: output stride 16, a multi-grid last stage, no dropout.
_base_ = './deeplabv3plus_r50.py'
network = dict(
    backbone=dict(multi_grid=(2, 4, 8), zero_init_residual=True),
    decode_head=dict(dropout_ratio=0.0),
)
