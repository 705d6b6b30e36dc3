# ACDC: one rate for all parameters, 300 epochs.
_base_ = './sgd.py'
optim_wrapper = dict(optimizer=dict(lr=1e-2))
train_cfg = dict(max_epochs=300)
