_base_ = '../unimatch/unimatch_r101_voc_classic.py'
model = dict(plugins=[dict(type='MPMC')])
