# Cityscapes; crop 798, 180 epochs, 2 + 2 images a GPU of 4, OHEM.
_base_ = [
    '../_base_/models/dpt_dinov2-s.py',
    '../_base_/datasets/cityscapes_798.py',
    '../_base_/schedules/adamw_vit.py',
    '../_base_/methods/unimatch_v2.py',
]
network = _base_.network
network.decode_head.num_classes = 19
# 200,000 pixels of one GPU's two crops.
network.decode_head.loss_decode = dict(type='OhemCrossEntropyLoss', threshold=0.7, min_kept=200_000 / (2 * 798 * 798))
network.test_cfg = dict(mode='slide', crop_size=_base_.crop_size, stride=(532, 532), average='probabilities')
model = dict(data_preprocessor=dict(size=_base_.crop_size), student=network)
auto_scale_lr = dict(base_batch_size=16)
train_cfg = dict(max_epochs=180)
