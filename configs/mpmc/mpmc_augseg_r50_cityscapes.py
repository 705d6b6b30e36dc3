_base_ = '../augseg/augseg_r50_cityscapes.py'
model = dict(plugins=[dict(type='MPMC')])
