_base_ = './base.py'
model = dict(type='FixMatch', threshold=0.95)
