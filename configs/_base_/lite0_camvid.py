# What all methods share on CamVid over EfficientNet-Lite0 with ImageNet weights: a benchmark for CPUs.
_base_ = ['./models/deeplabv3plus_lite0.py', './datasets/camvid_drives.py', './schedules/adamw_small.py']
network = dict(decode_head=dict(num_classes=11))
# Configs take these as model.data_preprocessor.
view_cfg = dict(size=(193, 193), mean=[127.5, 127.5, 127.5], std=[127.5, 127.5, 127.5])
optim_wrapper = dict(
    type='AutocastOptimWrapper',
    optimizer=dict(lr=2e-4),
    paramwise_cfg=dict(custom_keys={'decode_head': dict(lr_mult=5.0), 'heads.': dict(lr_mult=5.0)}),
)
# Of 414 unlabeled images, 4 an iteration: 1,442 iterations.
train_cfg = dict(max_epochs=14, val_interval=7)
# All images have masks: how good pseudo-labels are goes into the log.
train_dataloader = dict(dataset=dict(unlabeled_gt=True))
custom_hooks = [dict(type='PseudoLabelHook', interval=0)]
