_base_ = '../augseg/augseg_segmenter-vit-l_cityscapes.py'
model = dict(plugins=[dict(type='MPMC', norm_cfg=dict(type='SyncBN'))])
