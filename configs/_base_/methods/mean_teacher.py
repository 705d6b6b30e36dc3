_base_ = './base.py'
model = dict(type='MeanTeacher', threshold=0.95)
default_hooks = dict(
    checkpoint=dict(save_best='teacher/mIoU'),
    teacher=dict(type='EMATeacherHook', momentum=0.996),
)
