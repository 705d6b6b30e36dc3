_base_ = '../mean_teacher/mean_teacher_lite0_camvid.py'
model = dict(plugins=[dict(type='MPMC')])
