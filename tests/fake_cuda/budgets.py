"""What a step may take on a GPU: all numbers are here."""

LAUNCHES = dict.fromkeys(
    [
        'Supervised',
        'FixMatch',
        'MeanTeacher',
        'MLLC',
        'AEL',
        'AugSeg',
        'UniMatch',
        'UniMatchV2',
        'PrevMatch',
        'DSSN',
        'ESL',
        'U2PL',
        'CorrMatch',
        'MPMC',
    ],
    1000,
)
LARGE = {}
