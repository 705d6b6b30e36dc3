_base_ = '../supervised/supervised_lite0_camvid.py'
model = dict(plugins=[dict(type='MPMC')])
