# As acdc.py, in the protocol of UniMatch's U-Net: gray slices, resized whole to 256, batches of 12 + 12 in all.
# Weak view: half of the slices are turned by quarters and mirrored, of the others half are rotated by up to 20 degrees.
# What a rotation brings in is black, and background, in labels too.
_base_ = './acdc.py'

crop_size = (256, 256)
train_pipeline = [
    dict(type='LoadImageFromFile', color_type='grayscale'),
    dict(type='LoadSegAnnotations'),
    dict(
        type='RandomChoice',
        transforms=[
            [dict(type='RandomRotFlip', rotate_prob=0.0, flip_prob=1.0)],
            [dict(type='RandomRotate', prob=1.0, degree=20, pad_val=0, seg_pad_val=0)],
            [],
        ],
        prob=[0.5, 0.25, 0.25],
    ),
    dict(type='Resize', scale=crop_size, keep_ratio=False, interpolation='nearest'),
    dict(type='PackSegInputs'),
]
# Scores are resized to the slices' own size.
test_pipeline = [
    dict(type='LoadImageFromFile', color_type='grayscale'),
    dict(type='Resize', scale=crop_size, keep_ratio=False, backend='pillow'),
    # After Resize, so that the ground truth keeps its size.
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]
# Of what the test pipeline gives.
tta_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(
        type='TestTimeAug',
        transforms=[
            [dict(type='RandomFlip', prob=prob) for prob in (0.0, 1.0)],
            [dict(type='LoadAnnotations')],
            [dict(type='PackSegInputs')],
        ],
    ),
]

train_dataloader = dict(batch_size=24, sampler=dict(labeled=12, unlabeled=12), dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

# Intensities from 0 to 1, not standardised.
view_cfg = dict(size=crop_size, mean=[0.0], std=[255.0], bgr_to_rgb=False)
