_base_ = '../unimatch_v2/unimatch_v2_dinov2-s_dpt_voc.py'
model = dict(plugins=[dict(type='MPMC', norm_cfg=dict(type='SyncBN'))])
