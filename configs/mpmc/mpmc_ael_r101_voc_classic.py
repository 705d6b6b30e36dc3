_base_ = '../ael/ael_r101_voc_classic.py'
model = dict(plugins=[dict(type='MPMC')])
