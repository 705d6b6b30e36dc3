_base_ = '../mllc/mllc_r101_voc.py'
model = dict(plugins=[dict(type='MPMC')])
