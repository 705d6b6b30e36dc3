# As dpt_dinov3-s.py, with ViT-B.
_base_ = './dpt_dinov3-s.py'
network = dict(
    backbone=dict(model_name='vit_base_patch16_dinov3'),
    decode_head=dict(
        in_channels=(768, 768, 768, 768), embed_dims=768, post_process_channels=[96, 192, 384, 768], channels=128
    ),
)
