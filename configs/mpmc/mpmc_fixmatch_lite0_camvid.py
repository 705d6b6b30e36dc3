_base_ = '../fixmatch/fixmatch_lite0_camvid.py'
model = dict(plugins=[dict(type='MPMC')])
