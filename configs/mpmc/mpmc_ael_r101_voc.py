_base_ = '../ael/ael_r101_voc.py'
model = dict(plugins=[dict(type='MPMC')])
