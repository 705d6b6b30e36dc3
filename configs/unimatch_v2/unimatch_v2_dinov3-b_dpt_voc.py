# PASCAL VOC 2012 classic over DINOv3; crop 512, 32 patches of 16 pixels. Random weights unless you ask for Meta's.
_base_ = [
    '../_base_/models/dpt_dinov3-b.py',
    '../_base_/datasets/voc_classic.py',
    '../_base_/schedules/adamw_vit.py',
    '../_base_/methods/unimatch_v2.py',
]
network = _base_.network
model = dict(data_preprocessor=dict(size=_base_.crop_size), student=network)
train_dataloader = dict(batch_size=8, sampler=dict(labeled=4, unlabeled=4))
