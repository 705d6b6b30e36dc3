# PASCAL VOC 2012, labels drawn from all 10,582 training images (the paper's table IV).
_base_ = [
    '../_base_/models/deeplabv3plus_r101.py',
    '../_base_/datasets/voc_blender.py',
    '../_base_/schedules/sgd_heads_x10.py',
    '../_base_/methods/mllc.py',
]
network = _base_.network
model = dict(student=network)
train_cfg = dict(max_epochs=150)
