_base_ = '../augseg/augseg_r101_voc.py'
model = dict(plugins=[dict(type='MPMC')])
