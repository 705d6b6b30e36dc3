# Windows that fit a crop of 64 (16 x 16 locations at stride 4).
_base_ = '../prevmatch/prevmatch_r18_shapes.py'
model = dict(plugins=[dict(type='MPMC', pools=(3, 7))])
