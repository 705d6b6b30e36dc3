# AugSeg: the method is mostly its views, which are set here.
_base_ = './base.py'
model = dict(
    type='AugSeg',
    threshold=0.95,
    label_box=dict(type='BetaCutMix', beta=(8, 2)),
    data_preprocessor=dict(
        padding='mean',
        strong=dict(_delete_=True, type='RandomIntensity', max_ops=3),
        cutmix=dict(_delete_=True, type='BetaCutMix', beta=(4, 4)),
    ),
)
default_hooks = dict(
    checkpoint=dict(save_best='teacher/mIoU'),
    # Through the first epoch the teacher is a copy of the student.
    teacher=dict(type='EMATeacherHook', momentum=0.999, copy_epochs=1, count_copies=True),
)
