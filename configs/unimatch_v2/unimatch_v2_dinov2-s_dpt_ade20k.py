# ADE20K; crop 518, 60 epochs, 2 + 2 images a GPU of 4.
_base_ = [
    '../_base_/models/dpt_dinov2-s.py',
    '../_base_/datasets/ade20k.py',
    '../_base_/schedules/adamw_vit.py',
    '../_base_/methods/unimatch_v2.py',
]
network = _base_.network
network.decode_head.num_classes = 150
model = dict(data_preprocessor=dict(size=_base_.crop_size), student=network)
auto_scale_lr = dict(base_batch_size=16)
