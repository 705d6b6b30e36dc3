# COCO 2017, 80 things and the background; masks by tools/dataset_converters/coco81.py.
# Published partitions: '1/512' (232), '1/256' (463), '1/128' (925), '1/64' (1849), '1/32' (3697) of 118,287.
_base_ = './loaders.py'

dataset_type = 'COCO81Dataset'
data_root = 'data/coco'
crop_size = (518, 518)

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
        dataset=dict(
            type=dataset_type, data_root=data_root, data_prefix=dict(img_path='train2017', seg_map_path='masks')
        ),
        labeled='1/32',
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        data_prefix=dict(img_path='val2017', seg_map_path='masks'),
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
