# ESL for any network with a decoder; K, q, N_s, sigma, zeta, eta are keys of the model.
_base_ = './base.py'
model = dict(
    type='ESL',
    dominant_mass=0.95,
    soft_weight=0.2,
    contrast_weight=0.1,
    threshold=0.95,
    parts=5,
    prototype_momentum=0.99,
    queue_length=256,
    negatives=255,
    temperature=0.5,
    anchor_ratio=0.1,
    max_anchors=128,
    heads=dict(
        projector=dict(
            type='ProjectionHead',
            hidden_channels=256,
            out_channels=512,
            num_convs=2,
            source='decoder',
            norm_cfg=dict(type='SyncBN'),
        ),
    ),
    # The strong view is CutMix alone, half of the image, as in U2PL.
    data_preprocessor=dict(
        strong=None, padding='mean', cutmix=dict(_delete_=True, type='FixedAreaCutMix', sides='width', prob=0.5)
    ),
)
default_hooks = dict(
    checkpoint=dict(save_best='teacher/mIoU'),
    teacher=dict(type='EMATeacherHook', momentum=0.99),
    prototypes=dict(type='PrototypeHook'),
)
