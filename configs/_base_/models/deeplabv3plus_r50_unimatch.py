# UniMatch's and DSSN's network: output stride 16, no dropout.
_base_ = './deeplabv3plus_r50.py'
network = dict(decode_head=dict(dropout_ratio=0.0))
