# What all methods share on VOC classic over DINOv2's ViT-S: UniMatch V2's network, data, schedule and batch.
_base_ = [
    './models/dpt_dinov2-s.py',
    './datasets/voc_classic_518.py',
    './schedules/adamw_vit.py',
]
train_dataloader = dict(batch_size=8, sampler=dict(labeled=4, unlabeled=4))
