# DeepLabV3+ at output stride 8.
_base_ = './deeplabv3plus_r50.py'
network = dict(
    backbone=dict(dilations=(1, 1, 2, 4), strides=(1, 2, 1, 1)),
    decode_head=dict(dilations=(1, 12, 24, 36)),
)
