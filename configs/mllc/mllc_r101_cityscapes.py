# Crop 800, 100 epochs, U2PL's rate. Graphs of 800 x 800 crops are built at stride 8: 10,000 nodes an image.
_base_ = [
    '../_base_/models/deeplabv3plus_r101.py',
    '../_base_/datasets/cityscapes.py',
    '../_base_/schedules/sgd.py',
    '../_base_/default_runtime.py',
    '../_base_/methods/mllc.py',
]
model = dict(
    data_preprocessor=dict(size=(800, 800)),
    student=dict(
        decode_head=dict(num_classes=19), test_cfg=dict(mode='slide', crop_size=(800, 800), stride=(534, 534))
    ),
    heads=dict(embedding=dict(downsample=2), graph=dict(num_classes=19)),
)
