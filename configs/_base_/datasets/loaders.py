# What the loaders of every data set share: 8 labeled and 8 unlabeled images a batch, evaluation image by image.
train_dataloader = dict(
    batch_size=16,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='StreamSampler', labeled=8, unlabeled=8),
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
