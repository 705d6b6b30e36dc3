# Crop 801, 200 epochs, the first of them a warm-up; an auxiliary head on the third stage.
_base_ = [
    '../_base_/models/deeplabv3plus_r101_os8.py',
    '../_base_/datasets/cityscapes_801.py',
    '../_base_/schedules/sgd_cityscapes_200.py',
    '../_base_/methods/u2pl.py',
]
network = _base_.network
network.decode_head.num_classes = 19
network.decode_head.loss_decode = dict(type='OhemCrossEntropyLoss', threshold=0.7, min_kept=100000)
network.auxiliary_head = dict(
    type='FCNHead',
    in_channels=1024,
    in_index=2,
    channels=256,
    num_convs=1,
    concat_input=False,
    dropout_ratio=0.1,
    num_classes=19,
    norm_cfg=_base_.norm_cfg,
    align_corners=False,
    loss_decode=dict(type='OhemCrossEntropyLoss', threshold=0.7, min_kept=100000, loss_weight=0.4),
)
network.test_cfg = dict(mode='slide', crop_size=(801, 801), stride=(534, 534))
model = dict(unsup_warmup=1, data_preprocessor=dict(size=_base_.crop_size), student=network)
