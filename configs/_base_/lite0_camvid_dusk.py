# The other way round: 23 labels from the first minute of the drive at dusk (0001TP), unlabeled images from all three,
# the first half of the evaluated drive (0006R0, by day) included; its second half is evaluated, ten frames of video
# later.
_base_ = './lite0_camvid.py'
dusk = dict(_base_.train_dataloader.dataset.dataset, sequences=('0001TP',), frames={'0001TP': (6690, 8490)})
train_dataloader = dict(
    dataset=dict(
        dataset=dict(frames=dict(_delete_=True, **{'0006R0': (930, 2130)})),
        labeled=23,
        candidates=dict(_delete_=True, **dusk),
    ),
)
val_dataloader = dict(dataset=dict(sequences=('0006R0',), frames=dict(_delete_=True, **{'0006R0': (2460, 3930)})))
test_dataloader = val_dataloader
# Of 385 unlabeled images, 4 an iteration: 1,440 iterations.
train_cfg = dict(max_epochs=15, val_interval=5)
