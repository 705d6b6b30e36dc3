# Few labels of the same light: the three drives are cut in two. 4 labeled and 220 unlabeled images are from their first
# halves; the second halves are evaluated, ten frames of video or more later.
_base_ = './lite0_camvid.py'
first_halves = {'0001TP': (6690, 7590), '0006R0': (930, 2130), '0016E5': (390, 6840)}
second_halves = {'0001TP': (7890, 8520), '0006R0': (2460, 3930), '0016E5': (7140, 8640)}
train_dataloader = dict(
    dataset=dict(dataset=dict(frames=dict(_delete_=True, **first_halves)), labeled=4, candidates=None),
)
val_dataloader = dict(dataset=dict(sequences=_base_.drives, frames=dict(_delete_=True, **second_halves)))
test_dataloader = val_dataloader
# Of 220 unlabeled images, 4 an iteration: 1,430 iterations.
train_cfg = dict(max_epochs=26, val_interval=13)
