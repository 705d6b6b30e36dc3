# The paper crops 513 on blender, 321 on classic alone.
_base_ = '../unimatch/unimatch_r101_voc_513.py'
model = dict(plugins=[dict(type='MPMC')])
