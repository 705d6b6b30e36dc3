# The schedule of MLLC on Cityscapes, and of the methods that are compared with it: 100 epochs.
_base_ = './sgd.py'
optim_wrapper = dict(optimizer=dict(weight_decay=5e-4))
