"""What a step may take on a GPU: all numbers are here.

Measured ones and a few percent; whoever lowers them writes them down. Launches are operations but for views.
"""

LAUNCHES = {
    'Supervised': 60,
    'FixMatch': 240,
    'MeanTeacher': 250,
    'MLLC': 1000,
    'AEL': 530,
    'AugSeg': 300,
    'UniMatch': 390,
    'UniMatchV2': 360,
    'PrevMatch': 510,
    'DSSN': 480,
    'ESL': 490,
    'U2PL': 520,
    'CorrMatch': 620,
    'MPMC': 190,
}
"""Most launches outside of networks, but for the backward pass: on the embedded data set, and what MPMC adds."""

OPTIMIZER = 30
"""Most launches of the optimizer's step, scaled gradients included, once it has its state."""

LARGE = {
    'supervised/supervised_r101_cityscapes.py': ('float32', (2, 0), 50, 410, 4.9),
    'fixmatch/fixmatch_r101_cityscapes.py': ('float32', (2, 2), 230, 1180, 13.2),
    'mean_teacher/mean_teacher_r101_cityscapes.py': ('float32', (2, 2), 230, 420, 9.3),
    'unimatch/unimatch_r101_cityscapes.py': ('float32', (2, 2), 420, 1200, 18.2),
    'corrmatch/corrmatch_r101_cityscapes.py': ('float32', (2, 2), 1190, 1770, 31.6),
    'dssn/dssn_r101_cityscapes.py': ('float32', (2, 2), 530, 1220, 19.5),
    'augseg/augseg_r101_cityscapes.py': ('float32', (2, 2), 340, 420, 9.2),
    'ael/ael_r101_cityscapes.py': ('float32', (2, 2), 770, 440, 21.2),
    'u2pl/u2pl_r101_cityscapes.py': ('float32', (2, 2), 620, 480, 22.8),
    'esl/esl_r101_cityscapes.py': ('float32', (2, 2), 590, 470, 21.3),
    'mllc/mllc_r101_cityscapes.py': ('float32', (2, 2), 930, 740, 10.7),
    'prevmatch/prevmatch_r101_voc_classic.py': ('float32', (2, 2), 490, 1220, 3.9),
    'unimatch_v2/unimatch_v2_dinov2-s_dpt_cityscapes.py': ('float32', (2, 2), 390, 1350, 26.3),
    'unimatch_v2/unimatch_v2_dinov2-s_dpt_voc.py': ('bf16', (2, 2), 350, 1920, 5.9),
    'corrmatch/corrmatch_dinov2-s_dpt_voc.py': ('bf16', (2, 2), 930, 2040, 6.1),
    'mllc/mllc_dinov2-s_dpt_voc.py': ('bf16', (2, 2), 970, 1170, 4.7),
}
"""By config: precision, labeled and unlabeled crops, most launches outside of networks forward, and backward, GiB."""
