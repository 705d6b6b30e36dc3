# PASCAL VOC 2012, labels from all 10,582 training images (table IV); voc_classic.py holds table V's partitions.
_base_ = [
    '../_base_/models/deeplabv3plus_r50.py',
    '../_base_/datasets/voc_blender.py',
    '../_base_/schedules/sgd_heads_x10.py',
    '../_base_/default_runtime.py',
    '../_base_/methods/mllc.py',
]
train_cfg = dict(max_epochs=150)
