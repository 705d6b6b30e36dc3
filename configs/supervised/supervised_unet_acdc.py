# The network, slices and schedule of unimatch_unet_acdc.py; as many iterations as there.
_base_ = [
    '../_base_/models/unet.py',
    '../_base_/datasets/acdc_unet.py',
    '../_base_/schedules/sgd_acdc.py',
    '../_base_/methods/supervised.py',
]
model = dict(data_preprocessor=_base_.view_cfg, student=_base_.network)
train_dataloader = dict(batch_size=12, sampler=dict(labeled=12, unlabeled=0))
auto_scale_lr = dict(base_batch_size=12)
default_hooks = dict(checkpoint=dict(save_best='student/mDice'))
