# DSSN; threshold is the paper's tau_low, class_ratio its r. model.loss_scale=0.5 halves all terms, as released.
_base_ = './base.py'
model = dict(
    type='DSSN',
    contrast_weight=0.01,
    normalize_logits=True,
    label_weight=0.25,
    threshold=0.92,
    class_ratio=0.96,
    feature_dropout=0.5,
    data_preprocessor=dict(num_strong=2),
)
default_hooks = dict(
    checkpoint=dict(save_best='teacher/mIoU'),
    teacher=dict(type='EMATeacherHook', momentum=0.996),
)
