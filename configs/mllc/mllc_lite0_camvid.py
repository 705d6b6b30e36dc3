_base_ = ['../_base_/lite0_camvid.py', '../_base_/methods/mllc.py']
model = dict(
    # Labels at dusk, images by day, and no threshold sifts pseudo-labels: they count late and less, and the graphs must
    # see the ground truth. An epoch is 96 iterations. Each choice's effect: configs/mllc/README.md.
    unsup_warmup=5,
    unsup_weight=0.3,
    graph_supervision=1.0,
    data_preprocessor=_base_.view_cfg,
    student=_base_.network,
    heads=dict(embedding=dict(out_channels=64, norm_cfg=_base_.norm_cfg)),
)
