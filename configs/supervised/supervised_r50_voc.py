_base_ = [
    '../_base_/models/deeplabv3plus_r50.py',
    '../_base_/datasets/voc_blender.py',
    '../_base_/schedules/sgd_heads_x10.py',
    '../_base_/default_runtime.py',
    '../_base_/methods/supervised.py',
]
