_base_ = './deeplabv3plus_r50_corrmatch.py'
network = dict(pretrained='open-mmlab://resnet101_v1c', backbone=dict(depth=101))
