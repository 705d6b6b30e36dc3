_base_ = [
    '../_base_/models/segformer_b5.py',
    '../_base_/datasets/cityscapes.py',
    '../_base_/schedules/adamw_segformer.py',
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
