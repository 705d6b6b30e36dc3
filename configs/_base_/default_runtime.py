default_scope = 'mmsemi'
env_cfg = dict(
    cudnn_benchmark=True,
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    dist_cfg=dict(backend='nccl'),
)
# What a device can do faster or in less memory; --amp and --compile are of the command line.
tf32 = 'convolutions'
compile = False
with_cp = False
default_hooks = dict(
    runtime_info=dict(type='DeferredRuntimeInfoHook'),
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=50, log_metric_by_epoch=False),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(
        type='CheckpointHook',
        interval=1,
        every_minutes=30,
        max_keep_ckpts=2,
        save_best='student/mIoU',
        rule='greater',
    ),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    visualization=dict(type='SegVisualizationHook'),
    progress=dict(type='ProgressHook'),
    finite_loss=dict(type='FiniteLossHook'),
    statistics=dict(type='SyncStatisticsHook'),
    unreadable=dict(type='UnreadableImageHook'),
    checkpoint_fit=dict(type='CheckpointFitHook'),
    rehearsal=dict(type='RehearsalHook'),
    console=dict(type='ConsoleHook'),
)
val_cfg = dict(type='TeacherStudentValLoop')
test_cfg = dict(type='CheckedTestLoop')
tta_model = dict(type='SegTTAModel')
vis_backends = [dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend')]
visualizer = dict(type='SegLocalVisualizer', vis_backends=vis_backends, name='visualizer')
log_processor = dict(by_epoch=True)
log_level = 'INFO'
load_from = None
resume = False
randomness = dict(seed=0)
