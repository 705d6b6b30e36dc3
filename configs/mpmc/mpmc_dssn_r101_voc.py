_base_ = '../dssn/dssn_r101_voc.py'
model = dict(plugins=[dict(type='MPMC')])
