# DINOv3's ViT-S in patches of 16, by timm (pip install 'mmsemi[timm]'), under UniMatch V2's decoder; crops of multiples
# of 16. The weights have a licence of their own (DINOv3 License) and are not fetched unless you ask for them:
# model.student.backbone.pretrained=True.
network = dict(
    type='PatchEncoderDecoder',
    patch_size=16,
    backbone=dict(
        type='TIMMBackbone',
        model_name='vit_small_patch16_dinov3',
        features_only=True,
        out_indices=(2, 5, 8, 11),
        pretrained=False,
    ),
    decode_head=dict(
        type='PlainDPTHead',
        in_channels=(384, 384, 384, 384),
        in_index=(0, 1, 2, 3),
        input_transform='multiple_select',
        embed_dims=384,
        post_process_channels=[48, 96, 192, 384],
        channels=64,
        patch_size=16,
        dropout_ratio=0.0,
        num_classes=21,
        align_corners=True,
        loss_decode=dict(type='PixelCrossEntropyLoss'),
    ),
    test_cfg=dict(mode='whole'),
)
