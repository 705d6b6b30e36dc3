_base_ = ['../_base_/lite0_camvid_dusk.py', '../_base_/methods/mllc.py']
model = dict(
    data_preprocessor=_base_.view_cfg,
    student=_base_.network,
    heads=dict(embedding=dict(out_channels=64, norm_cfg=_base_.norm_cfg)),
)
