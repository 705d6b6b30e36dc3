_base_ = '../ael/ael_r50_cityscapes.py'
model = dict(plugins=[dict(type='MPMC')])
