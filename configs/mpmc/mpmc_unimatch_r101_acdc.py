_base_ = '../unimatch/unimatch_r101_acdc.py'
model = dict(plugins=[dict(type='MPMC')])
