# The U-Net that UniMatch trains on medical images: one channel, 16 to 256 features; half cross-entropy, half Dice.
# Configs take this as model.student.
norm_cfg = dict(type='SyncBN', requires_grad=True)
network = dict(
    type='EncoderDecoder',
    backbone=dict(
        type='UNetEncoder',
        in_channels=1,
        channels=(16, 32, 64, 128, 256),
        dropout=(0.05, 0.1, 0.2, 0.3, 0.5),
        norm_cfg=norm_cfg,
    ),
    decode_head=dict(
        type='UNetHead',
        in_channels=(16, 32, 64, 128, 256),
        num_classes=4,
        norm_cfg=norm_cfg,
        align_corners=False,
        loss_decode=[
            dict(type='PixelCrossEntropyLoss', loss_weight=0.5),
            dict(type='PixelDiceLoss', loss_weight=0.5),
        ],
    ),
    test_cfg=dict(mode='whole'),
)
