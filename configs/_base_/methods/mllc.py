# MLLC for any network with a decoder; K, k, alpha, gamma are keys of the graph.
_base_ = './base.py'
model = dict(
    type='MLLC',
    threshold=0.95,
    slg_weight=0.1,
    clg_weight=1.0,
    intra_weight=0.5,
    temperature=0.1,
    prototype_momentum=0.99,
    # Ground truth of labeled images for the graphs, which the paper does not have; from a random start, 1.
    graph_supervision=0.0,
    unsup_warmup=1,
    heads=dict(
        embedding=dict(
            type='ProjectionHead',
            out_channels=256,
            source='decoder',
            # Graphs at stride 8: neighbours cost the square of the number of pixels, 16 times less than at stride 4.
            downsample=2,
            norm_cfg=dict(type='SyncBN'),
        ),
        graph=dict(
            type='LabelGraph',
            num_layers=2,
            num_neighbors=20,
            gamma=1.0,
            alpha=0.2,
        ),
    ),
)
default_hooks = dict(
    checkpoint=dict(save_best='teacher/mIoU'),
    teacher=dict(type='EMATeacherHook', momentum=0.99),
    prototypes=dict(type='PrototypeHook'),
)
