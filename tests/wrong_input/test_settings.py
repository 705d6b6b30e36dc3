"""Wrong settings end before the first iteration, with a sentence that has the key and the mend."""

from __future__ import annotations

import pytest

from tests.wrong_input.project import refused, warned

CLASS_WEIGHT = 'network.decode_head.loss_decode.class_weight'
KEYS = {
    # Keys that nothing reads, and values that cannot be.
    'misspelt key': (['trian_cfg.max_epochs=3'], 'did you mean train_cfg'),
    'half an epoch': (['train_cfg.max_epochs=1.5'], 'train_cfg.max_epochs must be a whole number'),
    'no epoch': (['train_cfg.max_epochs=0'], 'train_cfg.max_epochs must be a whole number'),
    'validation never': (['train_cfg.val_interval=0'], 'train_cfg.val_interval must be'),
    'unknown optimizer': (['optim_wrapper.optimizer.type=AdanW'], 'is no optimizer', 'AdamW'),
    'unknown method': (['model.type=FixMach'], 'FixMach'),
    'unknown backbone': (['network.backbone.type=ResNit'], 'ResNit'),
    'unknown head': (['network.decode_head.type=DepLab'], 'DepLab'),
    'unknown loss': (['network.decode_head.loss_decode.type=CrossEntrpyLoss'], 'CrossEntrpyLoss'),
    'unknown transform': (['train_dataloader.dataset.pipeline=[dict(type="LoadImgFromFile")]'], 'LoadImgFromFile'),
    'unknown data set': (['train_dataloader.dataset.dataset.type=MyFolder'], 'MyFolder'),
    'unknown metric': (['val_evaluator.type=IouMetric'], 'IouMetric'),
    'unknown hook': (['default_hooks.mine.type=MyHook'], 'MyHook'),
    'unknown argument of the method': (['model.thresold=0.9'], 'thresold'),
    'unknown argument of the head': (['network.decode_head.dropout=0.5'], 'dropout'),
    'unknown argument of the sampler': (['train_dataloader.sampler.labelled=2'], 'labelled'),
    'unknown argument of a transform': (['train_dataloader.dataset.pipeline.3.crop=(3,3)'], 'crop'),
    'option that is no pair': (['threshold'], 'no KEY=VALUE'),
    'option with open brackets': (['crop_size=(32,32'], 'brackets'),
    'option through a number': (['train_cfg.max_epochs.x=3'], 'train_cfg.max_epochs is 1'),
    'option to no place': (['train_dataloader.dataset.pipeline.17.prob=1'], 'without a place 17'),
    'threshold of percent': (['model.threshold=95'], 'model.threshold must lie in [0, 1]'),
    'threshold below 0': (['model.threshold=-0.1'], 'model.threshold must lie in [0, 1]'),
    'negative weight': (['model.unsup_weight=-1'], 'model.unsup_weight must be 0 or more'),
    'negative warm-up': (['model.unsup_warmup=-1'], 'model.unsup_warmup must be 0 or more'),
    'branch that is not there': (['model.test_cfg.predict_on=teacher'], 'predict_on', 'student'),
    'no strong view': (['model.data_preprocessor.num_strong=0'], 'num_strong must be 1 or more'),
    'negative strong views': (['model.data_preprocessor.num_strong=-1'], 'num_strong must be'),
    'unknown padding': (['model.data_preprocessor.padding=white'], 'padding must be'),
    'max_value of 0': (['model.data_preprocessor.max_value=0'], 'max_value must be above 0'),
    'jitter of three': (['model.data_preprocessor.strong.jitter=(0.5,0.5,0.5)'], 'jitter must be four numbers'),
    'blur backwards': (['model.data_preprocessor.strong.blur_sigma=(2,1)'], 'blur_sigma must be'),
    'scales backwards': (['scale_range=(2.0,0.5)'], 'the lower one first'),
    'auto scale without base': (['auto_scale_lr.base_batch_size=None', 'auto_scale_lr.enable=True'], 'base_batch_size'),
    # Numbers of classes and widths.
    'too few classes': (['network.decode_head.num_classes=2', 'classes=("a","b","c")'], 'num_classes=2', '3 classes'),
    'too many classes': (['network.decode_head.num_classes=9'], 'num_classes=9', '3 classes'),
    'classes of another count': (['classes=("a","b")'], 'outside the 2 classes'),
    'one-channel head': (['network.decode_head.out_channels=1'], 'out_channels=1', 'leave out_channels'),
    'width of the head': (['network.decode_head.in_channels=99'], 'student.segmentor.decode_head', 'width'),
    'low-level width': (['network.decode_head.low_level_in_channels=99'], 'decode_head', 'width'),
    'level that is not there': (['network.decode_head.in_index=9'], 'decode_head'),
    'weights of wrong length': ([f'{CLASS_WEIGHT}=[1.0,2.0]'], 'class_weight has 2 numbers'),
    'one class alone': (['network.decode_head.num_classes=1', 'classes=("object",)'], 'num_classes=1', 'background'),
    'auxiliary classes': (
        ['network.auxiliary_head=dict(type="FCNHead",in_channels=64,in_index=2,channels=16,num_classes=7)'],
        'auxiliary_head',
        'num_classes',
    ),
    'auxiliary width': (
        ['network.auxiliary_head=dict(type="FCNHead",in_channels=999,in_index=2,channels=16)'],
        'auxiliary_head',
        'width',
    ),
    'crop and size differ': (['model.data_preprocessor.size=(40,40)'], 'crop_size', '(40, 40)'),
    'crop of the pipeline alone': (['train_dataloader.dataset.pipeline.3.crop_size=(16,16)'], '(16, 16)', 'crop_size'),
    'mean of two': (['model.data_preprocessor.mean=[1.0,2.0]', 'model.data_preprocessor.std=[1.0,2.0]'], 'mean'),
    'depth that ResNet lacks': (['network.backbone.depth=19'], 'depth 19'),
    # Batches.
    'batch that is no sum': (['train_dataloader.batch_size=5'], 'batch_size=5', 'set batch_size to their sum'),
    'negative labeled': (['train_dataloader.sampler.labeled=-1'], 'sampler.labeled=-1 must not be negative'),
    'nothing labeled': (['train_dataloader.sampler.labeled=0', 'train_dataloader.batch_size=2'], 'sampler.labeled=0'),
    'empty batch': (
        ['train_dataloader.sampler.labeled=0', 'train_dataloader.sampler.unlabeled=0', 'train_dataloader.batch_size=0'],
        'both 0',
    ),
    'batch of one': (
        ['train_dataloader.sampler.labeled=1', 'train_dataloader.sampler.unlabeled=0', 'train_dataloader.batch_size=1'],
        'more than one image',
        'sampler.labeled',
    ),
    'one of each under BN': (
        ['train_dataloader.sampler.labeled=1', 'train_dataloader.sampler.unlabeled=1', 'train_dataloader.batch_size=2'],
        'more than one image',
    ),
    # Data.
    'data root': (['data_root=/nowhere'], 'The data root /nowhere does not exist'),
    'image folder': (['train_dataloader.dataset.dataset.data_prefix.img_path=pictures'], 'pictures does not exist'),
    'mask folder': (['train_dataloader.dataset.dataset.data_prefix.seg_map_path=nomasks'], 'masks are missing'),
    'validation folder': (['val_dataloader.dataset.data_prefix.img_path=val/pictures'], 'val/pictures does not exist'),
    'suffix of images': (['img_suffix=.bmp'], 'img_suffix'),
    'suffix of masks': (['seg_map_suffix=.bmp'], 'masks are missing'),
    'unlabeled folder': (['train_dataloader.dataset.unlabeled=elsewhere'], "unlabeled='elsewhere' does not exist"),
    'no unlabeled images': (['train_dataloader.dataset.unlabeled=none'], 'has no unlabeled images', 'set it to 0'),
    'more labels than images': (['train_dataloader.dataset.labeled=99'], 'labeled=99', 'only 3'),
    'labeled list': (['train_dataloader.dataset.labeled=none.txt'], 'none.txt'),
    'fraction of nothing': (['train_dataloader.dataset.labeled=0'], 'labeled=0'),
    'images both labeled and not': (['train_dataloader.dataset.unlabeled=images'], 'both labeled and unlabeled'),
    'no classes': (['classes=()'], 'classes'),
    # Pipelines and validation.
    'training without masks': (
        ['train_dataloader.dataset.pipeline=[dict(type="LoadImageFromFile"),dict(type="RandomCrop",crop_size=(32,32)),'
         'dict(type="PackSegInputs")]'],
        'loads no masks',
    ),
    'training that packs nothing': (
        ['train_dataloader.dataset.pipeline=[dict(type="LoadImageFromFile"),dict(type="LoadSegAnnotations")]'],
        'PackSegInputs',
    ),
    'edges of no mask': (
        ['train_dataloader.dataset.pipeline=[dict(type="LoadImageFromFile"),dict(type="LoadSegAnnotations"),'
         'dict(type="RandomCrop",crop_size=(32,32)),dict(type="GenerateEdge"),dict(type="PackSegInputs")]'],
        'GenerateEdge',
        'unlabeled_pipeline',
    ),
    'annotations of no mask': (
        ['train_dataloader.dataset.pipeline.1.type=LoadAnnotations'],
        'unlabeled',
    ),
    'gray training': (['train_dataloader.dataset.pipeline.0.color_type=grayscale'], 'channels', 'in_channels'),
    'gray validation': (['val_dataloader.dataset.pipeline.0.color_type=grayscale'], 'val_dataloader', 'channels'),
    'validation without masks': (
        ['val_dataloader.dataset.pipeline=[dict(type="LoadImageFromFile"),dict(type="PackSegInputs")]'],
        'val_dataloader loads no masks',
    ),
    'best by a metric that is not': (['default_hooks.checkpoint.save_best=teacher/mIoU'], 'save_best', 'student/mIoU'),
    'best by a misspelt metric': (['default_hooks.checkpoint.save_best=student/miou'], 'save_best', 'student/mIoU'),
    'unknown metric name': (['val_evaluator.iou_metrics=["IoU"]'], 'IoU'),
    # Weights.
    'pretrained file': (['network.pretrained=nowhere.pth'], 'nowhere.pth', 'model.student.pretrained'),
    'checkpoint to start from': (['load_from=nowhere.pth'], 'nowhere.pth'),
    'teacher without a teacher': (['default_hooks.teacher.type=EMATeacherHook'], 'needs a teacher', 'default_hooks'),
    'prototypes without any': (['default_hooks.p.type=PrototypeHook'], 'keeps none', 'default_hooks'),
    'plugin that is none': (['model.plugins=[dict(type="MPNC")]'], 'MPNC'),
    'windows larger than the map': (['model.plugins=[dict(type="MPMC",pools=(3,501))]'], 'lower pools'),
}  # fmt: skip


@pytest.mark.parametrize('case', KEYS)
def test_a_wrong_setting_is_refused(case, project):
    options, *says = KEYS[case]
    refused(project.train(*options), *says)


FILES = {
    'no Python': ('model = dict(\n', 'config.py, line'),
    'unknown name': ('x = unknwon\n', 'cannot be read', 'unknwon'),
    'no base': ("_base_ = './nothing.py'\n", 'nothing.py'),
    'misspelt key': ('train_dataloder = dict(batch_size=2)\n', 'train_dataloder', 'did you mean train_dataloader'),
    'misspelt key of a base': ('crop_sise = (33, 33)\n', 'crop_sise'),
    'reference to nothing': ("extra = '${nothing}'\nmodel = dict(threshold='${nothing}')\n", '${nothing}'),
    'reference in a circle': ("crop_size = '${scale_range}'\nscale_range = '${crop_size}'\n", 'refers to itself'),
    'crop written twice': ('model = dict(data_preprocessor=dict(size=(48, 48)))\n', 'write it once, as crop_size'),
    'classes written twice': ('network = dict(decode_head=dict(num_classes=5))\n', 'write it once, as classes'),
    'base that used its value': (
        f"_base_ = '{__file__.rpartition('/tests/')[0]}/configs/fixmatch/fixmatch_r18_shapes.py'\n"
        'network = dict(backbone=dict(depth=34))\n',
        'network was used when the config was read',
        'set model.student',
    ),
}


@pytest.mark.parametrize('case', FILES)
def test_a_wrong_config_file_is_refused(case, project):
    text, *says = FILES[case]
    if '_base_' in text:
        project.config.write_text(text)
    else:
        project.write(text)
    if case == 'misspelt key of a base':
        status, said = project.train()
        assert status is None and 'note: nothing reads crop_sise' in said
        return
    refused(project.train(), *says)


def test_segmentors_of_several_heads_are_refused(project):
    project.write(
        "network = _base_.network\nnetwork.type = 'CascadeEncoderDecoder'\nnetwork.num_stages = 2\n"
        'head = dict(network.pop("decode_head"), num_classes=3)\n'
        'network.decode_head = [head, head]\n'
    )
    refused(project.train(), '2 decode heads', 'EncoderDecoder')


def test_a_fresh_checkpoint_folder_must_be_writable(project):
    (project.root / 'work').write_text('a file')
    refused(project.train(), 'work')


def test_what_a_run_does_without_is_told(project):
    warned(
        project.train('train_dataloader.sampler.unlabeled=0', 'train_dataloader.batch_size=2'),
        'sampler.unlabeled=0',
        'supervised half alone',
    )


def test_the_project_trains_as_it_stands(project):
    assert project.train()[0] is None


@pytest.mark.parametrize(
    'part',
    [
        'loss_decode=dict(type="CrossEntropyLoss",use_sigmoid=True)',
        'loss_decode=dict(type="CrossEntropyLoss",class_weight=[1.0,2.0,1.0])',
        'loss_decode=dict(type="LovaszLoss",reduction="none")',
        'loss_decode=dict(type="DiceLoss")',
        'loss_decode=[dict(type="PixelCrossEntropyLoss"),dict(type="DiceLoss")]',
        'sampler=dict(type="OHEMPixelSampler",thresh=0.7,min_kept=100)',
        'loss_decode=dict(type="OhemCrossEntropyLoss")',
    ],
)
def test_losses_that_work_are_not_refused(part, project):
    key, _, value = part.partition('=')
    status, text = project.train(f'network.decode_head.{key}={value}')
    assert status is None, text[-800:]
