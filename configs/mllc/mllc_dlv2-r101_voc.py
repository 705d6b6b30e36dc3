# DMT's protocol for DeepLabV2: scale 0.5 to 1.5, crop 321; the embedding reads the backbone's last stage.
_base_ = [
    '../_base_/models/deeplabv2_r101.py',
    '../_base_/datasets/voc_blender_321_dmt.py',
    '../_base_/schedules/sgd_heads_x10.py',
    '../_base_/methods/mllc.py',
]
network = _base_.network
model = dict(
    data_preprocessor=dict(size=_base_.crop_size),
    student=network,
    heads=dict(embedding=dict(in_channels=2048, source='backbone', downsample=1)),
)
train_cfg = dict(max_epochs=150)
