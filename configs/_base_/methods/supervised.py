# Labeled images alone; an epoch is as long as with as many unlabeled images beside them.
model = dict(type='Supervised', data_preprocessor=dict(strong=None, num_strong=0, cutmix=None))
train_dataloader = dict(batch_size=8, sampler=dict(labeled=8, unlabeled=0))
