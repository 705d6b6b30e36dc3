# Cityscapes: labeled images are drawn from the 2,975 training images.
# Published partitions: '1/30' (100), '1/16' (186), '1/8' (372), '1/4' (744), '1/2' (1488).
# Masks are the *_gtFine_labelTrainIds.png that mmseg's tools/dataset_converters/cityscapes.py writes.
_base_ = './loaders.py'

dataset_type = 'CityscapesDataset'
data_root = 'data/cityscapes'
crop_size = (800, 800)

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadSegAnnotations'),
    dict(type='RandomScale', ratio_range=(0.5, 2.0)),
    dict(type='RandomCrop', crop_size=crop_size),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackSegInputs'),
]
# At the images' own size; models slide a window of the training crop over them (model.test_cfg).
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]

train_dataloader = dict(
    dataset=dict(
        dataset=dict(
            type=dataset_type,
            data_root=data_root,
            data_prefix=dict(img_path='leftImg8bit/train', seg_map_path='gtFine/train'),
        ),
        labeled='1/8',
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        data_prefix=dict(img_path='leftImg8bit/val', seg_map_path='gtFine/val'),
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
