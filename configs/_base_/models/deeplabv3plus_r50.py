# DeepLabV3+ at output stride 16, on mmseg's ResNet with a 32-32-64 deep stem (its published ImageNet weights).
# Configs take `network` as model.student. `align_corners` is not here: it follows the crop (docs/networks.md).
norm_cfg = dict(type='SyncBN', requires_grad=True)
network = dict(
    type='EncoderDecoder',
    pretrained='open-mmlab://resnet50_v1c',
    backbone=dict(
        type='ResNetV1c',
        depth=50,
        num_stages=4,
        out_indices=(0, 1, 2, 3),
        dilations=(1, 1, 1, 2),
        strides=(1, 2, 2, 1),
        norm_cfg=norm_cfg,
        norm_eval=False,
        style='pytorch',
        contract_dilation=True,
        zero_init_residual=False,
        with_cp=False,
    ),
    decode_head=dict(
        type='DeepLabV3PlusHead',
        in_channels=2048,
        in_index=3,
        low_level_in_channels=256,
        low_level_channels=48,
        channels=256,
        dilations=(1, 6, 12, 18),
        dropout_ratio=0.1,
        num_classes=21,
        norm_cfg=norm_cfg,
        loss_decode=dict(type='PixelCrossEntropyLoss'),
    ),
    test_cfg=dict(mode='whole'),
)
# On the third stage; for network.auxiliary_head where a method has one.
auxiliary_head = dict(
    type='FCNHead',
    in_channels=1024,
    in_index=2,
    channels=256,
    num_convs=1,
    concat_input=False,
    dropout_ratio=0.1,
    num_classes=21,
    norm_cfg=norm_cfg,
    loss_decode=dict(type='PixelCrossEntropyLoss', loss_weight=0.4),
)
