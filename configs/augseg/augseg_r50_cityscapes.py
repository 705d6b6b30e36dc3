# Crop 801, 240 epochs.
_base_ = [
    '../_base_/models/deeplabv3plus_r50_augseg.py',
    '../_base_/datasets/cityscapes_801.py',
    '../_base_/schedules/sgd_cityscapes.py',
    '../_base_/methods/augseg.py',
]
network = _base_.network
network.decode_head.num_classes = 19
network.decode_head.loss_decode = dict(type='OhemCrossEntropyLoss', threshold=0.7, min_kept=100_000 / (4 * 800 * 800))
network.test_cfg = dict(mode='slide', crop_size=_base_.crop_size, stride=(534, 534))
model = dict(data_preprocessor=dict(size=_base_.crop_size), student=network)
