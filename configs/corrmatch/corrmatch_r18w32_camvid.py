# Output stride 8, as the paper: at 16, a crop of 96 has fewer positions than shapes are sampled.
_base_ = [
    '../_base_/models/deeplabv3plus_r18w32.py',
    '../_base_/datasets/camvid.py',
    '../_base_/schedules/adamw_small.py',
    '../_base_/methods/corrmatch.py',
]
network = _base_.network
network.backbone.update(dilations=(1, 1, 2, 4), strides=(1, 2, 1, 1))
network.decode_head.num_classes = 11
model = dict(
    data_preprocessor=dict(size=_base_.crop_size),
    student=network,
    heads=dict(correlation=dict(in_channels=256, hidden_channels=64, norm_cfg=dict(type='BN'))),
)
