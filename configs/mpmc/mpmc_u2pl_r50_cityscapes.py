_base_ = '../u2pl/u2pl_r50_cityscapes.py'
model = dict(plugins=[dict(type='MPMC')])
