# MPMC's supplement, table 6: AugSeg with Segmenter.
_base_ = [
    '../_base_/models/segmenter_vit-l.py',
    '../_base_/datasets/cityscapes_768.py',
    '../_base_/schedules/sgd.py',
    '../_base_/methods/augseg.py',
]
network = _base_.network
network.decode_head.num_classes = 19
network.test_cfg = dict(mode='slide', crop_size=_base_.crop_size, stride=(512, 512))
model = dict(threshold=0.0, data_preprocessor=dict(size=_base_.crop_size), student=network)
default_hooks = dict(teacher=dict(momentum=0.996))
