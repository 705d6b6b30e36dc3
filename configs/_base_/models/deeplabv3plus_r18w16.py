# A ResNet-18 of quarter width for a few minutes on a CPU, from scratch.
_base_ = './deeplabv3plus_r18w32.py'
network = dict(
    backbone=dict(base_channels=16, stem_channels=16),
    decode_head=dict(in_channels=128, low_level_in_channels=16),
)
