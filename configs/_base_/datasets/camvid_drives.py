# CamVid at 320 x 240, labels of another light than the images: 23 are from the first minute of one drive by day,
# unlabeled images from all three, the first half of the drive at dusk included; its second half is evaluated, five
# seconds later. Why this one: docs/results.md.
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

drives = ('0001TP', '0006R0', '0016E5')  # at dusk, by day, by day
first_minute = dict(_base_.train_dataloader.dataset.dataset, sequences=('0016E5',), frames={'0016E5': (390, 2190)})
train_dataloader = dict(
    dataset=dict(
        dataset=dict(sequences=drives, frames={'0001TP': (6690, 7590)}),
        labeled=23,
        candidates=first_minute,
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(dataset=dict(sequences=('0001TP',), frames={'0001TP': (7740, 8520)}, pipeline=test_pipeline))
test_dataloader = val_dataloader
