# CorrMatch's network: output stride 8, no dropout.
_base_ = './deeplabv3plus_r50_os8.py'
network = dict(decode_head=dict(dropout_ratio=0.0))
