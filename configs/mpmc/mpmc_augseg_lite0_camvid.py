_base_ = '../augseg/augseg_lite0_camvid.py'
model = dict(plugins=[dict(type='MPMC')])
