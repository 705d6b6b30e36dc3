# U2PL's and AEL's network: output stride 8, a multi-grid last stage, 256 low-level channels, dropout behind each layer
# of the decoder.
_base_ = './deeplabv3plus_r50_os8.py'
network = dict(
    backbone=dict(multi_grid=(4, 8, 16), zero_init_residual=True),
    decode_head=dict(low_level_channels=256, bottleneck_kernel_size=3, inner_dropout=0.1),
)
