# ESL on UniMatch V2's network, data and schedule; choices for a ViT: configs/unimatch_v2/README.md.
_base_ = ['../_base_/dinov2-s_dpt_voc.py', '../_base_/methods/esl.py']
network = _base_.network
model = dict(
    data_preprocessor=dict(size=_base_.crop_size),
    student=network,
    # At stride 3.5: the decoder scores at 1.75.
    heads=dict(projector=dict(downsample=2)),
)
