_base_ = '../u2pl/u2pl_dinov2-s_dpt_voc.py'
model = dict(plugins=[dict(type='MPMC', norm_cfg=dict(type='SyncBN'))])
