# PASCAL VOC 2012, labels drawn from the 1,464 finely annotated images; crop 518, 60 epochs, 4 + 4 images a GPU of 4.
_base_ = [
    '../_base_/models/dpt_dinov2-b.py',
    '../_base_/datasets/voc_classic_518.py',
    '../_base_/schedules/adamw_vit.py',
    '../_base_/methods/unimatch_v2.py',
]
network = _base_.network
model = dict(data_preprocessor=dict(size=_base_.crop_size), student=network)
train_dataloader = dict(batch_size=8, sampler=dict(labeled=4, unlabeled=4))
