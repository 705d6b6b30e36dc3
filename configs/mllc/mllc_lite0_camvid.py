_base_ = ['../_base_/lite0_camvid.py', '../_base_/methods/mllc.py']
model = dict(
    # Labels and images differ: README.md, "What helped from pretrained weights".
    graph_supervision=1.0,
    unsup_warmup=5,
    unsup_weight=0.3,
    data_preprocessor=_base_.view_cfg,
    student=_base_.network,
    heads=dict(embedding=dict(out_channels=64, norm_cfg=_base_.norm_cfg)),
)
