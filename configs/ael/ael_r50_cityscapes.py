# Crop 801, 200 epochs.
_base_ = [
    '../_base_/models/deeplabv3plus_r50_os8.py',
    '../_base_/datasets/cityscapes_801.py',
    '../_base_/schedules/sgd_cityscapes_200.py',
    '../_base_/methods/ael.py',
]
network = _base_.network
network.decode_head.num_classes = 19
network.decode_head.loss_decode = dict(type='OhemCrossEntropyLoss', threshold=0.7, min_kept=100000)
network.test_cfg = dict(mode='slide', crop_size=(801, 801), stride=(534, 534))
model = dict(data_preprocessor=dict(size=_base_.crop_size), student=network)
