# PASCAL VOC 2012 classic over a convolutional encoder of timm; levels of one width alone lose the same channels.
_base_ = [
    '../_base_/models/upernet_convnext-t.py',
    '../_base_/datasets/voc_classic.py',
    '../_base_/schedules/adamw_vit.py',
    '../_base_/methods/unimatch_v2.py',
]
network = _base_.network
model = dict(data_preprocessor=dict(size=_base_.crop_size), student=network)
# Ten times the rate of the ViTs: chosen here, nobody published one.
optim_wrapper = dict(optimizer=dict(lr=5e-5))
train_dataloader = dict(batch_size=8, sampler=dict(labeled=4, unlabeled=4))
