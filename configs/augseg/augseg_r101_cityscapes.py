# Crop 800, 240 epochs; every pixel is learned.
_base_ = [
    '../_base_/models/deeplabv3plus_r101_augseg.py',
    '../_base_/datasets/cityscapes.py',
    '../_base_/schedules/sgd_cityscapes_200.py',
    '../_base_/methods/augseg.py',
]
network = _base_.network
network.decode_head.num_classes = 19
network.decode_head.loss_decode = dict(type='OhemCrossEntropyLoss', threshold=0.7, min_kept=100_000 / (4 * 800 * 800))
network.test_cfg = dict(mode='slide', crop_size=_base_.crop_size, stride=(533, 533))
model = dict(threshold=0.0, data_preprocessor=dict(size=_base_.crop_size), student=network)
default_hooks = dict(teacher=dict(momentum=0.996))
train_cfg = dict(max_epochs=240)
