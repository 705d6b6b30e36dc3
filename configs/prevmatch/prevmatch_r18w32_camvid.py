_base_ = [
    '../_base_/models/deeplabv3plus_r18w32.py',
    '../_base_/datasets/camvid.py',
    '../_base_/schedules/adamw_small.py',
    '../_base_/methods/prevmatch.py',
]
network = _base_.network
network.decode_head.num_classes = 11
model = dict(data_preprocessor=dict(size=_base_.crop_size), student=network)
