_base_ = ['../_base_/lite0_camvid.py', '../_base_/methods/u2pl.py']
model = dict(
    # With 1, as published, trees and cars are not learned here (README.md, "CamVid").
    unsup_start=5,
    queue_length=4096,
    background_length=8192,
    keys_per_step=128,
    data_preprocessor=_base_.view_cfg,
    student=_base_.network,
    heads=dict(representation=dict(out_channels=128, norm_cfg=_base_.norm_cfg)),
)
