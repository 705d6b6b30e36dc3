# What every method starts from: the runtime, and how the workers' crops become views. model.student is the config's
# network, unless it is said otherwise.
_base_ = '../default_runtime.py'
model = dict(
    data_preprocessor=dict(
        type='SemiDataPreprocessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_val=0,
        seg_pad_val=255,
        size=(512, 512),
        strong=dict(type='StrongView'),
        num_strong=1,
        cutmix=dict(type='CutMix'),
        padding='black',
    ),
)
