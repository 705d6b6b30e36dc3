_base_ = '../unimatch/unimatch_lite0_camvid.py'
model = dict(plugins=[dict(type='MPMC')])
