# CamVid in the SegNet layout, at 160 x 120, split by video sequence: a pool of 367 images and 101 for evaluation.
# The official val/ holds frames of a sequence that train/ holds as well, seconds apart, and so rewards memory.
_base_ = './loaders.py'

dataset_type = 'CamVidDataset'
data_root = 'data/camvid'
crop_size = (96, 96)
image_size = (160, 120)  # width, height

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

train_dataloader = dict(
    batch_size=8,
    sampler=dict(labeled=4, unlabeled=4),
    dataset=dict(
        dataset=dict(
            type=dataset_type,
            data_root=data_root,
            folders=('train', 'val'),
            sequences=('0001TP', '0016E5'),
        ),
        labeled=23,
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        folders=('train', 'val'),
        sequences=('0006R0',),
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader

# Of what the test pipeline gives: a config of another image_size has its scales.
tta_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(
        type='TestTimeAug',
        transforms=[
            [
                dict(type='Resize', scale_factor=factor, keep_ratio=True, backend='pillow')
                for factor in (0.75, 1.0, 1.25)
            ],
            [dict(type='RandomFlip', prob=prob) for prob in (0.0, 1.0)],
            [dict(type='LoadAnnotations')],
            [dict(type='PackSegInputs')],
        ],
    ),
]
