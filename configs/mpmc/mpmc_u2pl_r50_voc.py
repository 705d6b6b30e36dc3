_base_ = '../u2pl/u2pl_r50_voc.py'
model = dict(plugins=[dict(type='MPMC')])
