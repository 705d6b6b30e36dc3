_base_ = '../ael/ael_lite0_camvid.py'
model = dict(plugins=[dict(type='MPMC')])
