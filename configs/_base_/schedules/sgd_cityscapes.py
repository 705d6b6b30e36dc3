# UniMatch's schedule on Cityscapes, which CorrMatch and DSSN follow.
_base_ = './sgd.py'
optim_wrapper = dict(optimizer=dict(lr=5e-3))
train_cfg = dict(max_epochs=240)
