_base_ = '../u2pl/u2pl_r101_voc_classic.py'
model = dict(plugins=[dict(type='MPMC')])
