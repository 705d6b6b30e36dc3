# ConvNeXt-T by timm (pip install 'mmsemi[timm]') and mmseg's UPerNet. The weights are timm's, of ImageNet (Apache-2.0);
# without a network: model.student.backbone.pretrained=False.
custom_imports = dict(imports=['mmpretrain.models'], allow_failed_imports=False)
network = dict(
    type='EncoderDecoder',
    backbone=dict(
        type='mmpretrain.TIMMBackbone',
        model_name='convnext_tiny.in12k_ft_in1k',
        features_only=True,
        pretrained=True,
        drop_path_rate=0.1,
    ),
    decode_head=dict(
        type='UPerHead',
        in_channels=[96, 192, 384, 768],
        in_index=[0, 1, 2, 3],
        pool_scales=(1, 2, 3, 6),
        channels=512,
        dropout_ratio=0.1,
        num_classes=21,
        norm_cfg=dict(type='SyncBN', requires_grad=True),
        loss_decode=dict(type='PixelCrossEntropyLoss'),
    ),
    test_cfg=dict(mode='whole'),
)
