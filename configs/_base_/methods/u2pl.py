# U2PL for any network with a decoder.
_base_ = './base.py'
model = dict(
    type='U2PL',
    unreliable=0.2,
    dynamic_partition=True,
    pseudo_weight=1.0,
    contrast_weight=1.0,
    threshold=0.3,
    confident=None,
    low_rank=3,
    high_rank=20,
    negatives_from='unreliable',
    queries=256,
    negatives=50,
    temperature=0.5,
    center_momentum=0.0,
    queue_length=30000,
    background_length=50000,
    keys_per_step=512,
    heads=dict(
        representation=dict(
            type='ProjectionHead',
            out_channels=256,
            num_convs=2,
            source='decoder',
            norm_cfg=dict(type='SyncBN'),
        ),
    ),
    # The strong view is CutMix alone, half of the image.
    data_preprocessor=dict(
        strong=None, padding='mean', cutmix=dict(_delete_=True, type='FixedAreaCutMix', sides='width', prob=0.5)
    ),
    # The first epoch is supervised alone, and leaves the teacher a copy of the student.
    unsup_start=1,
)
default_hooks = dict(
    checkpoint=dict(save_best='teacher/mIoU'),
    teacher=dict(type='EMATeacherHook', momentum=0.99, copy_epochs=1),
    prototypes=dict(type='PrototypeHook'),
)
