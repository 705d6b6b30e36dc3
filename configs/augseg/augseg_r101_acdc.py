# ACDC with 3 labeled cases (7: train_dataloader.dataset.labeled=lists/cases_7.txt); crop 224, 300 epochs.
_base_ = [
    '../_base_/models/deeplabv3plus_r101_augseg.py',
    '../_base_/datasets/acdc.py',
    '../_base_/schedules/sgd_acdc.py',
    '../_base_/methods/augseg.py',
]
network = _base_.network
network.decode_head.num_classes = 4
model = dict(data_preprocessor=dict(size=_base_.crop_size), student=network)
default_hooks = dict(checkpoint=dict(save_best='teacher/mDice'))
