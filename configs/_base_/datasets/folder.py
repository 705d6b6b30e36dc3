# Your own images. Put them into this layout, and set in your config what is marked; `mmsemi init` does it all for other
# layouts.
#
#   data/my_dataset/images/     x.jpg   labeled images
#   data/my_dataset/masks/      x.png   their masks, the class id at each pixel; 255 is ignored
#   data/my_dataset/unlabeled/  any images, in subfolders as you like
#   data/my_dataset/val/images/ and val/masks/  for evaluation
_base_ = './loaders.py'

data_root = 'data/my_dataset'  # set
classes = ('background', 'object')  # set, in the order of the ids
palette = []  # by choice: their colors, [[0, 0, 0], [255, 0, 0]]
img_suffix = '.jpg'  # of the labeled images
seg_map_suffix = '.png'
crop_size = (513, 513)  # what fits your images; features lie best on their pixels for 8 k + 1
scale_range = (0.5, 2.0)

# What follows from these elsewhere in a config.
facts = {
    'model.data_preprocessor.size': '${crop_size}',
    'network.decode_head.num_classes': '${len(classes)}',
    'network.auxiliary_head.num_classes': '${len(classes)}',
}

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadSegAnnotations'),
    dict(type='RandomScale', ratio_range='${scale_range}'),
    dict(type='RandomCrop', crop_size='${crop_size}'),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadSegAnnotations'),
    dict(type='PackSegInputs'),
]
folder = dict(
    type='BaseSegDataset',
    data_root='${data_root}',
    img_suffix='${img_suffix}',
    seg_map_suffix='${seg_map_suffix}',
    metainfo=dict(classes='${classes}', palette='${palette}'),
)

train_dataloader = dict(
    dataset=dict(
        dataset=dict(data_prefix=dict(img_path='images', seg_map_path='masks'), **folder),
        # All images that have masks are labeled. To see how far fewer labels carry, give a fraction or a count here and
        # unlabeled='rest': the others then count as unlabeled.
        labeled='1/1',
        # A folder, or a list file with one image a line; relative to data_root.
        unlabeled='unlabeled',
        pipeline='${train_pipeline}',
    ),
)
val_dataloader = dict(
    dataset=dict(
        data_prefix=dict(img_path='val/images', seg_map_path='val/masks'), pipeline='${test_pipeline}', **folder
    ),
)
test_dataloader = val_dataloader
