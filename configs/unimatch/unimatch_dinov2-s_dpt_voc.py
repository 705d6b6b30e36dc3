# A backbone of mmpretrain: DINOv2's ViT-S and DPT. model.student.backbone.frozen_stages=12 trains the decoder alone.
_base_ = [
    '../_base_/models/dpt_dinov2-s.py',
    '../_base_/datasets/voc_blender_518.py',
    '../_base_/schedules/adamw_vit.py',
    '../_base_/methods/unimatch.py',
]
network = _base_.network
# Whole images are padded to full patches.
model = dict(data_preprocessor=dict(size=_base_.crop_size, test_cfg=dict(size_divisor=14)), student=network)
