_base_ = '../augseg/augseg_r50_voc_classic.py'
model = dict(plugins=[dict(type='MPMC')])
