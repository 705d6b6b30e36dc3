_base_ = ['../_base_/lite0_camvid.py', '../_base_/methods/mllc.py']
model = dict(
    # Labels at dusk, images by day: without a threshold the first labels are worth learning late, and the graphs must
    # see the ground truth (configs/mllc/README.md). An epoch is 96 iterations.
    unsup_warmup=5,
    graph_supervision=1.0,
    data_preprocessor=_base_.view_cfg,
    student=_base_.network,
    heads=dict(embedding=dict(out_channels=64)),
)
