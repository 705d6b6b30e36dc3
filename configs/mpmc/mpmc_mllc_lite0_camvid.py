_base_ = '../mllc/mllc_lite0_camvid.py'
model = dict(plugins=[dict(type='MPMC')])
