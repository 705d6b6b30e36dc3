_base_ = '../esl/esl_lite0_camvid.py'
model = dict(plugins=[dict(type='MPMC')])
