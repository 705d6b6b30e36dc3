# Correlation at the fused feature (stride 4): the last stage of a crop of 96 has 36 positions, fewer than are sampled.
_base_ = [
    '../_base_/models/deeplabv3plus_r18w32.py',
    '../_base_/datasets/camvid.py',
    '../_base_/schedules/adamw_small.py',
    '../_base_/methods/corrmatch.py',
]
network = _base_.network
network.decode_head.num_classes = 11
model = dict(
    data_preprocessor=dict(size=_base_.crop_size),
    student=network,
    heads=dict(correlation=dict(hidden_channels=64, source='fusion', norm_cfg=dict(type='BN'))),
)
