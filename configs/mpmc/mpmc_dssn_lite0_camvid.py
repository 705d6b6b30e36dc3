_base_ = '../dssn/dssn_lite0_camvid.py'
model = dict(plugins=[dict(type='MPMC')])
