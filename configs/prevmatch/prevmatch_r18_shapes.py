_base_ = [
    '../_base_/models/deeplabv3plus_r18w16.py',
    '../_base_/datasets/shapes.py',
    '../_base_/schedules/adamw_shapes.py',
    '../_base_/methods/prevmatch.py',
]
network = _base_.network
network.decode_head.num_classes = 8
model = dict(threshold=0.8, data_preprocessor=dict(size=_base_.crop_size), student=network)
