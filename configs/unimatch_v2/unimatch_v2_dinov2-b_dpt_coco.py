# COCO with 81 classes; crop 518, 20 epochs, 4 + 4 images a GPU of 4.
_base_ = [
    '../_base_/models/dpt_dinov2-b.py',
    '../_base_/datasets/coco81.py',
    '../_base_/schedules/adamw_vit.py',
    '../_base_/methods/unimatch_v2.py',
]
network = _base_.network
network.decode_head.num_classes = 81
model = dict(data_preprocessor=dict(size=_base_.crop_size), student=network)
train_dataloader = dict(batch_size=8, sampler=dict(labeled=4, unlabeled=4))
train_cfg = dict(max_epochs=20)
