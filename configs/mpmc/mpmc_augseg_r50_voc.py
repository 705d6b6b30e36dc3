_base_ = '../augseg/augseg_r50_voc.py'
model = dict(plugins=[dict(type='MPMC')])
