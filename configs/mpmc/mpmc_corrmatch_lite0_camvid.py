_base_ = '../corrmatch/corrmatch_lite0_camvid.py'
model = dict(plugins=[dict(type='MPMC')])
