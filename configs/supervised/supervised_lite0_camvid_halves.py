_base_ = ['../_base_/lite0_camvid_halves.py', '../_base_/methods/supervised.py']
model = dict(data_preprocessor=_base_.view_cfg, student=_base_.network)
train_dataloader = dict(batch_size=4, sampler=dict(labeled=4, unlabeled=0))
auto_scale_lr = dict(base_batch_size=4)
