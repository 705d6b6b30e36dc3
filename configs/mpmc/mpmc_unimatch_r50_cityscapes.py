_base_ = '../unimatch/unimatch_r50_cityscapes.py'
model = dict(plugins=[dict(type='MPMC')])
