# U2PL's schedule on Cityscapes.
_base_ = './sgd.py'
optim_wrapper = dict(optimizer=dict(weight_decay=5e-4))
train_cfg = dict(max_epochs=200)
