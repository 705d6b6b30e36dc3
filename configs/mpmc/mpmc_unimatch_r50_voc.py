_base_ = '../unimatch/unimatch_r50_voc.py'
model = dict(plugins=[dict(type='MPMC')])
