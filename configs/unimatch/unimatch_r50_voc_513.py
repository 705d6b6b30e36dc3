# PASCAL VOC 2012, labels drawn from all 10,582 training images; crop 513, 80 epochs.
_base_ = [
    '../_base_/models/deeplabv3plus_r50_unimatch.py',
    '../_base_/datasets/voc_blender_513.py',
    '../_base_/schedules/sgd_heads_x10.py',
    '../_base_/methods/unimatch.py',
]
network = _base_.network
model = dict(data_preprocessor=dict(size=_base_.crop_size), student=network)
