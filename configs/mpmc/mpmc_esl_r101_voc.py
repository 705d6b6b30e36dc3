_base_ = '../esl/esl_r101_voc.py'
model = dict(plugins=[dict(type='MPMC')])
