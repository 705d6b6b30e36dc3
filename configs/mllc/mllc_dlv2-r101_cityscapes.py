# DMT's protocol for DeepLabV2: images halved to 512 x 1024, scale 0.5 to 1.5, crop 256 x 512, one rate for all.
_base_ = [
    '../_base_/models/deeplabv2_r101.py',
    '../_base_/datasets/cityscapes_half.py',
    '../_base_/schedules/sgd.py',
    '../_base_/methods/mllc.py',
]
network = _base_.network
network.decode_head.num_classes = 19
network.decode_head.align_corners = True
model = dict(
    data_preprocessor=dict(size=_base_.crop_size),
    student=network,
    heads=dict(embedding=dict(source='backbone', downsample=1)),
)
optim_wrapper = dict(optimizer=dict(lr=4e-3, weight_decay=5e-4))
