# Crop 801, 240 epochs; all pixels are confident, but a shape needs a leading class.
_base_ = [
    '../_base_/models/deeplabv3plus_r101_corrmatch.py',
    '../_base_/datasets/cityscapes_801.py',
    '../_base_/schedules/sgd_cityscapes.py',
    '../_base_/methods/corrmatch.py',
]
network = _base_.network
network.decode_head.num_classes = 19
network.decode_head.loss_decode = dict(type='OhemCrossEntropyLoss', threshold=0.7, min_kept=100_000 / (2 * 801 * 801))
network.test_cfg = dict(mode='slide', crop_size=_base_.crop_size, stride=(534, 534))
model = dict(
    threshold=0.0,
    dynamic_threshold=False,
    region_threshold=0.85,
    data_preprocessor=dict(size=_base_.crop_size),
    student=network,
)
