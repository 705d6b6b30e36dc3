_base_ = '../augseg/augseg_r101_cityscapes.py'
model = dict(plugins=[dict(type='MPMC')])
