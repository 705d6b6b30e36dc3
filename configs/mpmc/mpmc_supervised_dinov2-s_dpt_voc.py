_base_ = '../supervised/supervised_dinov2-s_dpt_voc.py'
model = dict(plugins=[dict(type='MPMC', norm_cfg=dict(type='SyncBN'))])
