_base_ = [
    '../_base_/models/deeplabv3plus_r18w32.py',
    '../_base_/datasets/camvid.py',
    '../_base_/schedules/adamw_small.py',
    '../_base_/default_runtime.py',
    '../_base_/methods/supervised.py',
]
model = dict(data_preprocessor=dict(size=(96, 96)), student=dict(decode_head=dict(num_classes=11)))
train_dataloader = dict(batch_size=4, sampler=dict(labeled=4, unlabeled=0))
