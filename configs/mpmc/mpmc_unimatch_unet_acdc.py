# The third level has the stride of a ResNet's first stage, 4.
_base_ = '../unimatch/unimatch_unet_acdc.py'
model = dict(plugins=[dict(type='MPMC', position='stage3')])
