# Crop 800, 100 epochs, U2PL's rate and weight decay.
_base_ = [
    '../_base_/models/deeplabv3plus_r101.py',
    '../_base_/datasets/cityscapes.py',
    '../_base_/schedules/sgd_cityscapes_100.py',
    '../_base_/methods/mllc.py',
]
network = _base_.network
network.decode_head.num_classes = 19
network.test_cfg = dict(mode='slide', crop_size=_base_.crop_size, stride=(534, 534))
model = dict(
    data_preprocessor=dict(size=_base_.crop_size),
    student=network,
)
