# Images and masks named by list files, as `mmsemi init` writes them. A config that inherits this sets data_root, lists,
# classes, palette and crop_size, each once.
_base_ = './loaders.py'

data_root = '.'
lists = 'lists'  # folder of labeled.txt, unlabeled.txt and val.txt
classes = ('background', 'foreground')
palette = []
label_map = {}  # class of each id in the masks, where they are not the classes
color_masks = False  # masks hold the colors of the palette
crop_size = (513, 513)
longest_side = None  # images whose longer side is larger are shrunk to it
scale_range = (0.5, 2.0)
color_type = 'color'  # 'grayscale' for one channel, 'unchanged' for as many as there are
# What follows from these elsewhere in a config.
facts = {
    'model.data_preprocessor.size': '${crop_size}',
    'network.decode_head.num_classes': '${len(classes)}',
    'network.auxiliary_head.num_classes': '${len(classes)}',
}

train_pipeline = [
    dict(type='LoadReducedImage', longest='${longest_side}', color_type='${color_type}'),
    dict(type='LoadSegAnnotations'),
    dict(type='LimitSide', longest='${longest_side}'),
    dict(type='RandomScale', ratio_range='${scale_range}'),
    dict(type='RandomCrop', crop_size='${crop_size}'),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile', color_type='${color_type}'),
    dict(type='LimitSide', longest='${longest_side}'),
    # Behind LimitSide, so that the ground truth keeps its size: predictions are resized to it.
    dict(type='LoadSegAnnotations'),
    dict(type='PackSegInputs'),
]
listed = dict(
    type='ListedDataset',
    data_root='${data_root}',
    metainfo=dict(classes='${classes}', palette='${palette}'),
    label_map='${label_map}',
    color_masks='${color_masks}',
)
train_dataloader = dict(
    dataset=dict(
        dataset=dict(ann_file='${lists}/labeled.txt', data_prefix=dict(img_path=''), **listed),
        labeled='1/1',
        unlabeled='${lists}/unlabeled.txt',
        pipeline='${train_pipeline}',
    ),
)
val_dataloader = dict(
    dataset=dict(ann_file='${lists}/val.txt', data_prefix=dict(img_path=''), pipeline='${test_pipeline}', **listed),
)
test_dataloader = val_dataloader
