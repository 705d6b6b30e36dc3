# Segmenter: ViT-L in patches of 16 and a mask transformer. The backbone returns four levels, for taps.
norm_cfg = dict(type='LN', eps=1e-6, requires_grad=True)
network = dict(
    type='EncoderDecoder',
    pretrained='https://download.openmmlab.com/mmsegmentation/v0.5/pretrain/segmenter/vit_large_p16_384_20220308-d4efb41d.pth',
    backbone=dict(
        type='VisionTransformer',
        img_size=(640, 640),
        patch_size=16,
        in_channels=3,
        embed_dims=1024,
        num_layers=24,
        num_heads=16,
        out_indices=(5, 11, 17, 23),
        drop_path_rate=0.1,
        final_norm=True,
        norm_cfg=norm_cfg,
        with_cls_token=True,
        interpolate_mode='bicubic',
        with_cp=False,
    ),
    decode_head=dict(
        type='SegmenterMaskTransformerHead',
        in_channels=1024,
        channels=1024,
        num_layers=2,
        num_heads=16,
        embed_dims=1024,
        dropout_ratio=0.0,
        num_classes=21,
        loss_decode=dict(type='PixelCrossEntropyLoss'),
    ),
    test_cfg=dict(mode='whole'),
)
