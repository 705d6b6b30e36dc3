# Cityscapes at half size, 512 x 1024, with crops of 256 x 512: DMT's protocol, which MLLC's DeepLabV2 follows.
# DMT's code scales and flips, after halving. Predictions are resized to the full size and evaluated there.
_base_ = './cityscapes.py'

crop_size = (256, 512)
half_size = (1024, 512)  # width, height
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadSegAnnotations'),
    dict(type='Resize', scale=half_size, backend='pillow'),
    dict(type='RandomScale', ratio_range=(0.5, 1.5)),
    dict(type='RandomCrop', crop_size=crop_size),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=half_size, backend='pillow'),
    # After Resize, so that the ground truth keeps its size.
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]

train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
