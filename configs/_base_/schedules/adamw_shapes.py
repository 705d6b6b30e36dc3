# A few minutes on a CPU: 16 epochs of 144 iterations on the embedded data set.
_base_ = './adamw_small.py'
optim_wrapper = dict(optimizer=dict(lr=3e-3))
train_cfg = dict(max_epochs=16, val_interval=4)
