_base_ = ['../_base_/lite0_camvid.py', '../_base_/methods/esl.py']
model = dict(
    queue_length=128,
    negatives=127,
    data_preprocessor=_base_.view_cfg,
    student=_base_.network,
    heads=dict(projector=dict(hidden_channels=128, out_channels=128, norm_cfg=_base_.norm_cfg)),
)
