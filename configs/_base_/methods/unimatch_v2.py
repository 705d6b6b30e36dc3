# UniMatch V2; its threshold is the same on all data sets.
_base_ = './base.py'
model = dict(
    type='UniMatchV2',
    threshold=0.95,
    dropout='complementary',
    dropout_share=0.5,
    guide='teacher',
    data_preprocessor=dict(num_strong=2),
)
default_hooks = dict(
    checkpoint=dict(save_best='teacher/mIoU'),
    teacher=dict(type='EMATeacherHook', momentum=0.996),
)
