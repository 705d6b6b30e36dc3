# AEL; sampling_power is the paper's beta, confidence_power its gamma.
_base_ = './base.py'
model = dict(
    type='AEL',
    threshold=0.0,
    confidence_momentum=0.999,
    adaptive_cutmix=True,
    min_area=0.001,
    region_stride=8,
    copy_paste_prob=0.5,
    sampling_power=0.5,
    confidence_power=2.0,
    labeled_weight=1.0,
)
default_hooks = dict(
    checkpoint=dict(save_best='teacher/mIoU'),
    teacher=dict(type='EMATeacherHook', momentum=0.99),
    confidence=dict(type='ConfidenceHook'),
)
