# PASCAL VOC 2012, labels drawn from the 1,464 finely annotated images.
_base_ = [
    '../_base_/models/deeplabv3plus_r101.py',
    '../_base_/datasets/voc_classic.py',
    '../_base_/schedules/sgd_heads_x10.py',
    '../_base_/methods/supervised.py',
]
network = _base_.network
model = dict(student=network)
train_dataloader = dict(batch_size=2, sampler=dict(labeled=2, unlabeled=0))
auto_scale_lr = dict(base_batch_size=8)
