# Your own images. Put them into this layout, and change what is marked:
#
#   data/my_dataset/images/     x.jpg   labeled images
#   data/my_dataset/masks/      x.png   their masks, one byte a pixel: the class id; 255 is ignored
#   data/my_dataset/unlabeled/  any images, in subfolders as you like
#   data/my_dataset/val/images/ and val/masks/  for evaluation
_base_ = './loaders.py'

data_root = 'data/my_dataset'  # change
metainfo = dict(classes=('background', 'object'), palette=[[0, 0, 0], [255, 0, 0]])  # change, in the order of the ids
img_suffix = '.jpg'  # change, if your labeled images are not JPEG
crop_size = (512, 512)  # change to what fits your images; the model's data_preprocessor.size must be the same

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadSegAnnotations'),
    dict(type='RandomScale', ratio_range=(0.5, 2.0)),
    dict(type='RandomCrop', crop_size=crop_size),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadSegAnnotations'),
    dict(type='PackSegInputs'),
]

train_dataloader = dict(
    dataset=dict(
        dataset=dict(
            type='BaseSegDataset',
            data_root=data_root,
            data_prefix=dict(img_path='images', seg_map_path='masks'),
            img_suffix=img_suffix,
            metainfo=metainfo,
        ),
        # All images that have masks are labeled. To see how far fewer labels carry, give a fraction or a count here and
        # unlabeled='rest': the others then count as unlabeled.
        labeled='1/1',
        # A folder, or a list file with one image a line; relative to data_root.
        unlabeled='unlabeled',
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    dataset=dict(
        type='BaseSegDataset',
        data_root=data_root,
        data_prefix=dict(img_path='val/images', seg_map_path='val/masks'),
        img_suffix=img_suffix,
        metainfo=metainfo,
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
