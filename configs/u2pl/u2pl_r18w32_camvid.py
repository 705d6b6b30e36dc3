_base_ = [
    '../_base_/models/deeplabv3plus_r18w32.py',
    '../_base_/datasets/camvid.py',
    '../_base_/schedules/adamw_small.py',
    '../_base_/methods/u2pl.py',
]
network = _base_.network
network.decode_head.num_classes = 11
model = dict(
    # From a random start, pseudo-labels are worth learning later than with pretrained weights.
    unsup_start=0,
    unsup_warmup=1,
    queries=64,
    queue_length=1024,
    background_length=2048,
    keys_per_step=64,
    data_preprocessor=dict(size=_base_.crop_size),
    student=network,
    heads=dict(representation=dict(out_channels=64, norm_cfg=dict(type='BN'))),
)
default_hooks = dict(teacher=dict(copy_epochs=0))
