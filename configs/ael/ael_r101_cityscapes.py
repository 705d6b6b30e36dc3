# Crop 801, 200 epochs.
_base_ = [
    '../_base_/models/deeplabv3plus_r101_u2pl.py',
    '../_base_/datasets/cityscapes_801.py',
    '../_base_/schedules/sgd_cityscapes_200.py',
    '../_base_/methods/ael.py',
]
network = _base_.network
network.decode_head.num_classes = 19
ohem = dict(type='OhemCrossEntropyLoss', threshold=0.7, min_kept=100_000 / (2 * 769 * 769))
network.decode_head.loss_decode = ohem
network.auxiliary_head = dict(_base_.auxiliary_head, num_classes=19, loss_decode=dict(ohem, loss_weight=0.4))
network.test_cfg = dict(mode='slide', crop_size=_base_.crop_size, stride=(534, 534))
model = dict(data_preprocessor=dict(size=_base_.crop_size), student=network)
