# CamVid at 320 x 240 with the three drives cut in two: 4 labeled and 220 unlabeled images are from their first halves,
# evaluated are the second halves, ten frames of video or more later. Why this one: docs/results.md.
_base_ = './camvid.py'
crop_size = (193, 193)
image_size = (320, 240)  # width, height

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadSegAnnotations'),
    dict(type='RandomResize', scale=image_size, ratio_range=(0.5, 2.0), keep_ratio=True, backend='pillow'),
    dict(type='RandomCrop', crop_size=crop_size),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=image_size, backend='pillow'),
    # After Resize, so that the ground truth keeps its size: predictions are resized to it.
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]

drives = ('0001TP', '0006R0', '0016E5')
first_halves = {'0001TP': (6690, 7590), '0006R0': (930, 2130), '0016E5': (390, 6840)}
second_halves = {'0001TP': (7890, 8520), '0006R0': (2460, 3930), '0016E5': (7140, 8640)}
train_dataloader = dict(
    dataset=dict(dataset=dict(sequences=drives, frames=first_halves), labeled=4, pipeline=train_pipeline),
)
val_dataloader = dict(dataset=dict(sequences=drives, frames=second_halves, pipeline=test_pipeline))
test_dataloader = val_dataloader
