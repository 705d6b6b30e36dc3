_base_ = [
    '../_base_/models/deeplabv3plus_r18w16.py',
    '../_base_/datasets/shapes.py',
    '../_base_/schedules/adamw_shapes.py',
    '../_base_/methods/mllc.py',
]
network = _base_.network
network.decode_head.num_classes = 8
model = dict(
    # From a random start, pseudo-labels are worth learning later than with pretrained weights, and the graphs must see
    # the ground truth.
    unsup_warmup=6,
    graph_supervision=1.0,
    data_preprocessor=dict(size=_base_.crop_size),
    student=network,
    heads=dict(embedding=dict(out_channels=64, norm_cfg=dict(type='BN'))),
)
