# ACDC as UniMatch published it: U-Net from scratch, Dice for labeled and unlabeled slices; 3 labeled cases
# (7: train_dataloader.dataset.labeled=lists/cases_7.txt), 300 epochs.
_base_ = [
    '../_base_/models/unet.py',
    '../_base_/datasets/acdc_unet.py',
    '../_base_/schedules/sgd_acdc.py',
    '../_base_/methods/unimatch.py',
]
model = dict(unsup_loss='dice', data_preprocessor=_base_.view_cfg, student=_base_.network)
auto_scale_lr = dict(base_batch_size=24)
default_hooks = dict(checkpoint=dict(save_best='student/mDice'))
