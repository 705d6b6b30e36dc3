_base_ = '../augseg/augseg_r101_acdc.py'
model = dict(plugins=[dict(type='MPMC')])
