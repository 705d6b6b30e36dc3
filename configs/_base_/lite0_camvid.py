# What all methods share on CamVid over EfficientNet-Lite0 with ImageNet weights: a benchmark for CPUs.
_base_ = ['./models/deeplabv3plus_lite0.py', './datasets/camvid_drive.py', './schedules/adamw_small.py']
network = dict(decode_head=dict(num_classes=11))
# Configs take these as model.data_preprocessor.
view_cfg = dict(size=(193, 193), mean=[127.5, 127.5, 127.5], std=[127.5, 127.5, 127.5])
optim_wrapper = dict(
    optimizer=dict(lr=2e-4),
    paramwise_cfg=dict(custom_keys={'decode_head': dict(lr_mult=5.0), 'heads.': dict(lr_mult=5.0)}),
)
# Of 4 unlabeled images each, about 1,400 iterations.
train_cfg = dict(max_epochs=15, val_interval=3)
