# PASCAL VOC 2012, labels drawn from the 1,464 finely annotated images; crop 321, 80 epochs.
_base_ = [
    '../_base_/models/deeplabv3plus_r101_unimatch.py',
    '../_base_/datasets/voc_classic_321.py',
    '../_base_/schedules/sgd_heads_x10.py',
    '../_base_/methods/prevmatch.py',
]
network = _base_.network
model = dict(data_preprocessor=dict(size=_base_.crop_size), student=network)
