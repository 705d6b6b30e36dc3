_base_ = '../u2pl/u2pl_r101_voc.py'
model = dict(plugins=[dict(type='MPMC')])
