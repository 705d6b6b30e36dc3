# As mllc_r101_voc.py, at output stride 8: the paper does not give its stride.
_base_ = [
    '../_base_/models/deeplabv3plus_r101_os8.py',
    '../_base_/datasets/voc_blender.py',
    '../_base_/schedules/sgd_heads_x10.py',
    '../_base_/methods/mllc.py',
]
network = _base_.network
model = dict(student=network)
train_cfg = dict(max_epochs=150)
