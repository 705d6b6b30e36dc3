# What the loaders of every data set share. A batch is what one of 4 processes takes: 2 labeled and 2 unlabeled images,
# the papers' 8 + 8 in all. Evaluation goes image by image.
train_dataloader = dict(
    batch_size=4,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='StreamSampler', labeled=2, unlabeled=2),
    batch_sampler=dict(type='StreamBatchSampler'),
    dataset=dict(type='SemiDataset', unlabeled='rest', seed=0),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
)
test_dataloader = val_dataloader

val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
test_evaluator = val_evaluator

# For tools/test.py --tta: the mean over scales and mirror images.
tta_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(
        type='TestTimeAug',
        transforms=[
            [
                dict(type='Resize', scale_factor=factor, keep_ratio=True, backend='pillow')
                for factor in (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
            ],
            [dict(type='RandomFlip', prob=prob) for prob in (0.0, 1.0)],
            [dict(type='LoadAnnotations')],
            [dict(type='PackSegInputs')],
        ],
    ),
]
