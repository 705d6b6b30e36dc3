# Labeled images alone; an epoch is as long as with as many unlabeled images beside them.
_base_ = './base.py'
model = dict(type='Supervised', data_preprocessor=dict(strong=None, num_strong=0, cutmix=None))
