# DMT's protocol for DeepLabV2: images halved to 512 x 1024, crop 256 x 512, no scaling, no flip.
_base_ = [
    '../_base_/models/deeplabv2_r101.py',
    '../_base_/datasets/cityscapes_half.py',
    '../_base_/schedules/sgd.py',
    '../_base_/methods/mllc.py',
]
network = _base_.network
network.decode_head.num_classes = 19
model = dict(
    data_preprocessor=dict(size=_base_.crop_size),
    student=network,
    heads=dict(embedding=dict(in_channels=2048, source='backbone', downsample=1), graph=dict(num_classes=19)),
)
