_base_ = '../ael/ael_r50_voc.py'
model = dict(plugins=[dict(type='MPMC')])
