_base_ = ['../_base_/lite0_camvid_halves.py', '../_base_/methods/corrmatch.py']
model = dict(
    data_preprocessor=_base_.view_cfg,
    student=_base_.network,
    heads=dict(correlation=dict(hidden_channels=128, norm_cfg=_base_.norm_cfg)),
)
