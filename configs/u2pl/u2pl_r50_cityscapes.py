_base_ = './u2pl_r101_cityscapes.py'
model = dict(student=dict(pretrained='open-mmlab://resnet50_v1c', backbone=dict(depth=50)))
