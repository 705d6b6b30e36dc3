# Correlation at the fused feature (stride 4): the last stage of a crop of 64 has 16 positions, fewer than are sampled.
_base_ = [
    '../_base_/models/deeplabv3plus_r18w16.py',
    '../_base_/datasets/shapes.py',
    '../_base_/schedules/adamw_shapes.py',
    '../_base_/methods/corrmatch.py',
]
network = _base_.network
network.decode_head.num_classes = 8
model = dict(
    threshold=0.7,
    num_shapes=32,
    data_preprocessor=dict(size=_base_.crop_size),
    student=network,
    heads=dict(correlation=dict(hidden_channels=64, source='fusion', norm_cfg=dict(type='BN'))),
)
