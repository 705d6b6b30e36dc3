# As dpt_dinov2-s.py, with ViT-B.
_base_ = './dpt_dinov2-s.py'
network = dict(
    pretrained='https://dl.fbaipublicfiles.com/dinov2/dinov2_vitb14/dinov2_vitb14_pretrain.pth',
    backbone=dict(arch='dinov2-b'),
    decode_head=dict(
        in_channels=(768, 768, 768, 768), embed_dims=768, post_process_channels=[96, 192, 384, 768], channels=128
    ),
)
