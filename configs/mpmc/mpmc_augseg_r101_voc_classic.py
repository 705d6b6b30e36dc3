_base_ = '../augseg/augseg_r101_voc_classic.py'
model = dict(plugins=[dict(type='MPMC')])
