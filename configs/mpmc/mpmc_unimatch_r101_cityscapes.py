_base_ = '../unimatch/unimatch_r101_cityscapes.py'
model = dict(plugins=[dict(type='MPMC')])
