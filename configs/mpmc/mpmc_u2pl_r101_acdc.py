_base_ = '../u2pl/u2pl_r101_acdc.py'
model = dict(plugins=[dict(type='MPMC')])
