_base_ = ['../_base_/lite0_camvid.py', '../_base_/methods/prevmatch.py']
model = dict(data_preprocessor=_base_.view_cfg, student=_base_.network)
# A validation may keep the student.
train_cfg = dict(val_interval=1)
