_base_ = '../ael/ael_r50_voc_classic.py'
model = dict(plugins=[dict(type='MPMC')])
