_base_ = '../ael/ael_r101_cityscapes.py'
model = dict(plugins=[dict(type='MPMC')])
