_base_ = '../u2pl/u2pl_r101_cityscapes.py'
model = dict(plugins=[dict(type='MPMC')])
