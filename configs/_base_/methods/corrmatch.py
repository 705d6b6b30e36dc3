# CorrMatch for any network; D of the correlation head is the number of classes.
_base_ = './base.py'
model = dict(
    type='CorrMatch',
    threshold=0.85,
    threshold_momentum=0.999,
    hard_weight=0.5,
    soft_weight=0.25,
    corr_weight=0.25,
    num_shapes=128,
    sampling='random',
    feature_dropout=0.5,
    heads=dict(correlation=dict(type='CorrelationHead', source='backbone', norm_cfg=dict(type='SyncBN'))),
)
default_hooks = dict(threshold=dict(type='DynamicThresholdHook'))
