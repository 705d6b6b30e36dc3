# PrevMatch: UniMatch and the networks of earlier epochs.
_base_ = './base.py'
model = dict(
    type='PrevMatch',
    threshold=0.95,
    strong_weight=0.25,
    feature_weight=0.5,
    feature_dropout=0.5,
    length=8,
    teachers=3,
    random_number=True,
    previous_threshold=0.9,
    previous_weight=1.0,
    data_preprocessor=dict(num_strong=2),
)
default_hooks = dict(previous=dict(type='PreviousNetworksHook', select='best'))
