# DeepLabV2 at output stride 8: four dilated classifiers on the last stage, summed.
_base_ = './deeplabv3plus_r101.py'
network = dict(
    backbone=dict(dilations=(1, 1, 2, 4), strides=(1, 2, 1, 1)),
    decode_head=dict(
        _delete_=True,
        type='DeepLabV2Head',
        in_channels=2048,
        in_index=3,
        dilations=(6, 12, 18, 24),
        num_classes=21,
        loss_decode=dict(type='PixelCrossEntropyLoss'),
    ),
)
