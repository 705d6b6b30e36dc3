_base_ = '../unimatch_v2/unimatch_v2_lite0_camvid.py'
model = dict(plugins=[dict(type='MPMC')])
