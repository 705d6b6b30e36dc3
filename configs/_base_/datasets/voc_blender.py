# PASCAL VOC 2012 with SBD, "blender": labeled images are drawn from all 10,582 training images.
# Published partitions: '1/16' (662), '1/8' (1323), '1/4' (2646), '1/2' (5291); 212 and 529 as counts.
_base_ = './loaders.py'

dataset_type = 'PascalVOCAugDataset'
data_root = 'data/VOCdevkit/VOC2012'
crop_size = (512, 512)

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadSegAnnotations'),
    dict(type='RandomScale', ratio_range=(0.5, 2.0)),
    dict(type='RandomCrop', crop_size=crop_size),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackSegInputs'),
]
# Whole images at their own size.
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]

train_dataloader = dict(
    dataset=dict(
        dataset=dict(type=dataset_type, data_root=data_root),
        labeled='1/8',
        candidates=None,
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    dataset=dict(
        type='PascalVOCDataset',
        data_root=data_root,
        data_prefix=dict(img_path='JPEGImages', seg_map_path='SegmentationClass'),
        ann_file='ImageSets/Segmentation/val.txt',
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
