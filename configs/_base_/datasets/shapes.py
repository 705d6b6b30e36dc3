# The embedded data set, drawn by `python tools/dataset_converters/make_shapes.py data/shapes`.
_base_ = './loaders.py'

dataset_type = 'ShapesDataset'
data_root = 'data/shapes'
crop_size = (64, 64)

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadSegAnnotations'),
    # The images are small: a factor of 0.5, as in the papers, would leave no more than one crop of them.
    dict(type='RandomScale', ratio_range=(0.75, 1.5)),
    dict(type='RandomCrop', crop_size=crop_size),
    dict(type='RandomFlip', prob=0.5),
    dict(
        type='PackSegInputs',
        meta_keys=('img_path', 'seg_map_path', 'ori_shape', 'img_shape', 'stream', 'unreadable'),
    ),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadSegAnnotations'),
    dict(type='PackSegInputs'),
]

train_dataloader = dict(
    batch_size=8,
    num_workers=0,
    persistent_workers=False,
    sampler=dict(labeled=4, unlabeled=4),
    dataset=dict(
        dataset=dict(type=dataset_type, data_root=data_root, ann_file='ImageSets/Segmentation/train.txt'),
        labeled=24,
        require_all_classes=True,
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=16,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        ann_file='ImageSets/Segmentation/val.txt',
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
