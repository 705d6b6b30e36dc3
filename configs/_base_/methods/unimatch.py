_base_ = './base.py'
model = dict(
    type='UniMatch',
    threshold=0.95,
    strong_weight=0.25,
    feature_weight=0.5,
    feature_dropout=0.5,
    data_preprocessor=dict(num_strong=2),
)
