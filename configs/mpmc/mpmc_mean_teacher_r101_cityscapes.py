# Table 6: the basic teacher-student on Cityscapes, crop 801, no threshold; cross-entropy, and AugSeg's schedule there.
_base_ = [
    '../_base_/models/deeplabv3plus_r101.py',
    '../_base_/datasets/cityscapes_801.py',
    '../_base_/schedules/sgd_cityscapes.py',
    '../_base_/methods/mean_teacher.py',
]
network = _base_.network
network.decode_head.num_classes = 19
network.test_cfg = dict(mode='slide', crop_size=_base_.crop_size, stride=(534, 534))
model = dict(
    threshold=0.0,
    data_preprocessor=dict(size=_base_.crop_size),
    student=network,
    plugins=[dict(type='MPMC')],
)
optim_wrapper = dict(optimizer=dict(lr=1e-2, weight_decay=5e-4))
