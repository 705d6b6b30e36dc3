# DINOv2's ViT-S in patches of 14, by mmpretrain, and mmseg's DPT decoder; backbone.frozen_stages=12 freezes the ViT.
custom_imports = dict(imports=['mmpretrain.models'], allow_failed_imports=False)
network = dict(
    type='EncoderDecoder',
    pretrained='https://download.openmmlab.com/mmpretrain/v1.0/dinov2/vit-small-p14_dinov2-pre_3rdparty_20230426-5641ca5a.pth',
    backbone=dict(
        type='mmpretrain.VisionTransformer',
        arch='dinov2-s',
        img_size=518,
        patch_size=14,
        layer_scale_init_value=1e-5,
        out_type='featmap',
        out_indices=(2, 5, 8, 11),
        frozen_stages=-1,
    ),
    decode_head=dict(
        type='PlainDPTHead',
        in_channels=(384, 384, 384, 384),
        in_index=(0, 1, 2, 3),
        input_transform='multiple_select',
        embed_dims=384,
        post_process_channels=[48, 96, 192, 384],
        channels=64,
        patch_size=14,
        dropout_ratio=0.0,
        num_classes=21,
        norm_cfg=dict(type='SyncBN', requires_grad=True),
        loss_decode=dict(type='PixelCrossEntropyLoss'),
    ),
    test_cfg=dict(mode='whole'),
)
