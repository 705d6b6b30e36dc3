# As dpt_dinov2-s.py, with ViT-L; backbone.frozen_stages=24 freezes it.
_base_ = './dpt_dinov2-s.py'
network = dict(
    pretrained='https://dl.fbaipublicfiles.com/dinov2/dinov2_vitl14/dinov2_vitl14_pretrain.pth',
    backbone=dict(arch='dinov2-l', out_indices=(4, 11, 17, 23)),
    decode_head=dict(
        in_channels=(1024, 1024, 1024, 1024),
        embed_dims=1024,
        post_process_channels=[256, 512, 1024, 1024],
        channels=256,
    ),
)
