_base_ = '../unimatch/unimatch_r50_voc_classic.py'
model = dict(plugins=[dict(type='MPMC')])
