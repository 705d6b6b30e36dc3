_base_ = '../ael/ael_r101_acdc.py'
model = dict(plugins=[dict(type='MPMC')])
