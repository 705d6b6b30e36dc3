_base_ = '../prevmatch/prevmatch_lite0_camvid.py'
model = dict(plugins=[dict(type='MPMC')])
