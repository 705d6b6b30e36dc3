_base_ = '../mean_teacher/mean_teacher_dinov2-s_dpt_voc.py'
model = dict(plugins=[dict(type='MPMC', norm_cfg=dict(type='SyncBN'))])
