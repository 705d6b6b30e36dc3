_base_ = ['../_base_/lite0_camvid_halves.py', '../_base_/methods/mean_teacher.py']
model = dict(data_preprocessor=_base_.view_cfg, student=_base_.network)
