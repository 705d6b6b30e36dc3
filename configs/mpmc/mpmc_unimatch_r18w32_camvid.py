# Windows that fit a crop of 96 (24 x 24 locations at stride 4).
_base_ = '../unimatch/unimatch_r18w32_camvid.py'
model = dict(plugins=[dict(type='MPMC', pools=(3, 7))])
