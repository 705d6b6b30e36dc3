_base_ = '../u2pl/u2pl_lite0_camvid.py'
model = dict(plugins=[dict(type='MPMC')])
