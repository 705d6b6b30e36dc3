# The network of UniMatch V2: DINOv2's ViT-S in patches of 14 and a DPT decoder without normalisation.
# The weights are Meta's own file (Apache-2.0). backbone.frozen_stages=12 freezes the encoder, which student and teacher
# then share.
custom_imports = dict(imports=['mmsemi.models.backbones.dinov2'], allow_failed_imports=False)
network = dict(
    type='PatchEncoderDecoder',
    patch_size=14,
    pretrained='https://dl.fbaipublicfiles.com/dinov2/dinov2_vits14/dinov2_vits14_pretrain.pth',
    backbone=dict(type='DINOv2', arch='dinov2-s', out_indices=(2, 5, 8, 11), frozen_stages=-1),
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
        align_corners=True,
        loss_decode=dict(type='PixelCrossEntropyLoss'),
    ),
    test_cfg=dict(mode='whole'),
)
