# PASCAL VOC 2012, "classic": labeled images are drawn from the 1,464 finely annotated ones, all 10,582 are the pool.
# Published partitions: '1/16' (92), '1/8' (183), '1/4' (366), '1/2' (732), '1/1' (1464).
_base_ = './voc_blender.py'

train_dataloader = dict(dataset=dict(candidates='ImageSets/Segmentation/train.txt', labeled='1/8'))
