_base_ = [
    '../_base_/models/deeplabv3plus_r18w16.py',
    '../_base_/datasets/shapes.py',
    '../_base_/schedules/adamw_shapes.py',
    '../_base_/methods/esl.py',
]
network = _base_.network
network.decode_head.num_classes = 8
model = dict(
    # From a random start, pseudo-labels are worth learning later than with pretrained weights.
    unsup_warmup=6,
    parts=3,
    queue_length=64,
    negatives=63,
    max_anchors=32,
    data_preprocessor=dict(size=_base_.crop_size),
    student=network,
    heads=dict(projector=dict(hidden_channels=64, out_channels=64, norm_cfg=dict(type='BN'))),
)
