_base_ = [
    '../_base_/models/deeplabv3plus_r18w16.py',
    '../_base_/datasets/shapes.py',
    '../_base_/schedules/adamw_shapes.py',
    '../_base_/methods/supervised.py',
]
network = _base_.network
network.decode_head.num_classes = 8
model = dict(data_preprocessor=dict(size=_base_.crop_size), student=network)
train_dataloader = dict(batch_size=4, sampler=dict(labeled=4, unlabeled=0))
auto_scale_lr = dict(base_batch_size=4)
