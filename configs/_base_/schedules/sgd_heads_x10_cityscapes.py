# ESL's and AEL's schedule on Cityscapes.
_base_ = './sgd_heads_x10.py'
optim_wrapper = dict(optimizer=dict(lr=1e-2, weight_decay=5e-4))
train_cfg = dict(max_epochs=200)
