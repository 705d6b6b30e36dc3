_base_ = '../unimatch/unimatch_r101_voc.py'
model = dict(plugins=[dict(type='MPMC')])
