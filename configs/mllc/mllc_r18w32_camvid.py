_base_ = [
    '../_base_/models/deeplabv3plus_r18w32.py',
    '../_base_/datasets/camvid.py',
    '../_base_/schedules/adamw_small.py',
    '../_base_/methods/mllc.py',
]
network = _base_.network
network.decode_head.num_classes = 11
model = dict(
    # From a random start the graphs must see the ground truth.
    graph_supervision=1.0,
    data_preprocessor=dict(size=_base_.crop_size),
    student=network,
    heads=dict(embedding=dict(out_channels=64, norm_cfg=dict(type='BN'))),
)
