_base_ = '../corrmatch/corrmatch_r101_voc.py'
model = dict(plugins=[dict(type='MPMC')])
