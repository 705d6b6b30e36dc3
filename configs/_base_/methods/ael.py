# AEL; sampling_power is the paper's beta, confidence_power its gamma, paste_classes its K.
_base_ = './base.py'
model = dict(
    type='AEL',
    threshold=0.0,
    confidence_momentum=0.999,
    adaptive_cutmix=True,
    min_area=0.005,
    region_stride=8,
    copy_paste_prob=0.5,
    paste_classes=3,
    paste_scale=(0.2, 1.0),
    sampling_power=0.5,
    confidence_power=2.0,
    normalised_by='image',
    labeled_weight=1.0,
    # The strong view is CutMix alone, and every image is mixed: half of it, where no region is found.
    data_preprocessor=dict(
        strong=None,
        padding='mean',
        cutmix=dict(_delete_=True, type='FixedAreaCutMix', sides='logarithm', prob=1.0),
    ),
)
default_hooks = dict(
    checkpoint=dict(save_best='teacher/mIoU'),
    teacher=dict(type='EMATeacherHook', momentum=0.99),
    confidence=dict(type='ConfidenceHook'),
)
