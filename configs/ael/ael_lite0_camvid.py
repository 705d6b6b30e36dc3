_base_ = ['../_base_/lite0_camvid.py', '../_base_/methods/ael.py']
model = dict(
    # From the first step on pseudo-labels settle on one class here (README.md, "CamVid").
    unsup_start=5,
    data_preprocessor=_base_.view_cfg,
    student=_base_.network,
)
