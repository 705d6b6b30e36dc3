# ACDC, slices of cardiac MR from tools/dataset_converters/acdc.py: 70 patients for training, 30 for evaluation.
# Labeled: 'lists/cases_3.txt' or 'lists/cases_7.txt'. The slices' one channel is repeated to three on reading.
_base_ = './loaders.py'

dataset_type = 'ACDCDataset'
data_root = 'data/acdc'
val_list = 'lists/val.txt'
crop_size = (224, 224)

train_pipeline = [
    dict(type='LoadImageFromFile', color_type='color'),
    dict(type='LoadSegAnnotations'),
    dict(type='RandomScale', ratio_range=(0.5, 2.0)),
    dict(type='RandomCrop', crop_size=crop_size),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackSegInputs'),
]
# Whole slices at their own size.
test_pipeline = [
    dict(type='LoadImageFromFile', color_type='color'),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]

train_dataloader = dict(
    batch_size=16,
    sampler=dict(labeled=8, unlabeled=8),
    dataset=dict(
        dataset=dict(type=dataset_type, data_root=data_root, ann_file='lists/train.txt', apart_from=val_list),
        labeled='lists/cases_3.txt',
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    dataset=dict(type=dataset_type, data_root=data_root, ann_file=val_list, pipeline=test_pipeline),
)
test_dataloader = val_dataloader

# Configs of methods then say save_best='student/mDice' or 'teacher/mDice'.
val_evaluator = dict(_delete_=True, type='ForegroundDice')
test_evaluator = dict(_delete_=True, type='ForegroundDice')
