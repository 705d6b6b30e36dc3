# DMT's protocol for DeepLabV2: scale 0.5 to 1.5, crop 321, one rate; the embedding reads the backbone's last stage.
_base_ = [
    '../_base_/models/deeplabv2_r101.py',
    '../_base_/datasets/voc_blender_321_dmt.py',
    '../_base_/schedules/sgd.py',
    '../_base_/methods/mllc.py',
]
network = _base_.network
network.decode_head.align_corners = True
model = dict(
    data_preprocessor=dict(size=_base_.crop_size),
    student=network,
    heads=dict(embedding=dict(source='backbone', downsample=1)),
)
optim_wrapper = dict(optimizer=dict(lr=1e-3, weight_decay=5e-4))
train_cfg = dict(max_epochs=150)
