"""Tiny networks and batches for the tests."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import torch
from mmengine.config import ConfigDict
from mmengine.dataset import pseudo_collate
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from torch.utils.data import Dataset

import mmsemi.engine
import mmsemi.models  # noqa: F401
from mmsemi.registry import MODELS
from mmsemi.structures import Mix, Streams

NUM_CLASSES = 4
SIZE = 32

PREPROCESSOR = dict(
    type='SemiDataPreprocessor',
    size=(SIZE, SIZE),
    mean=[120.0, 115.0, 100.0],
    std=[60.0, 60.0, 60.0],
    bgr_to_rgb=True,
    strong=dict(type='StrongView'),
    cutmix=dict(type='CutMix'),
)
HEADS = dict(
    embedding=dict(type='ProjectionHead', in_channels=16, out_channels=16, norm_cfg=dict(type='BN')),
    graph=dict(type='LabelGraph', num_classes=NUM_CLASSES, feature_channels=16, num_neighbors=5),
)
# What a method needs beyond a segmentor and the preprocessor, by the method's name.
METHODS: dict[str, dict] = {
    'Supervised': {},
    'FixMatch': {},
    'MeanTeacher': {},
    'MLLC': dict(heads=HEADS),
    'AEL': dict(region_stride=2),
    'AugSeg': dict(data_preprocessor=dict(strong=dict(type='RandomIntensity'), cutmix=dict(type='BetaCutMix'))),
    'UniMatch': dict(data_preprocessor=dict(num_strong=2)),
    'PrevMatch': dict(data_preprocessor=dict(num_strong=2), length=2),
    'UniMatchV2': dict(data_preprocessor=dict(num_strong=2)),
    'DSSN': dict(data_preprocessor=dict(num_strong=2)),
    'CorrMatch': dict(
        heads=dict(
            correlation=dict(
                type='CorrelationHead', in_channels=64, hidden_channels=8, dropout=0, norm_cfg=dict(type='BN')
            )
        ),
        num_shapes=3,
    ),
    'ESL': dict(
        heads=dict(projector=dict(type='ProjectionHead', in_channels=16, out_channels=16, norm_cfg=dict(type='BN'))),
        parts=2,
        queue_length=6,
        negatives=7,
        max_anchors=8,
        data_preprocessor=dict(strong=None),
    ),
    'U2PL': dict(
        heads=dict(
            representation=dict(type='ProjectionHead', in_channels=16, out_channels=16, norm_cfg=dict(type='BN'))
        ),
        low_rank=2,
        queries=8,
        negatives=5,
        queue_length=6,
        background_length=8,
        keys_per_step=4,
        data_preprocessor=dict(strong=None),
    ),
}


MPMC = dict(type='MPMC', pools=(3, 5), channels=4)
"""A plugin for any of them."""


def segmentor(norm: dict | None = None) -> dict:
    """Config of a DeepLabV3+ that fits a thimble."""
    norm = norm or dict(type='BN')
    return dict(
        type='EncoderDecoder',
        pretrained=None,
        backbone=dict(
            type='ResNetV1c',
            depth=18,
            base_channels=8,
            stem_channels=8,
            out_indices=(0, 1, 2, 3),
            strides=(1, 2, 2, 1),
            dilations=(1, 1, 1, 2),
            norm_cfg=norm,
        ),
        decode_head=dict(
            type='DeepLabV3PlusHead',
            in_channels=64,
            in_index=3,
            low_level_in_channels=8,
            low_level_channels=4,
            channels=16,
            dilations=(1, 2),
            dropout_ratio=0,
            num_classes=NUM_CLASSES,
            norm_cfg=norm,
            align_corners=False,
            loss_decode=dict(type='PixelCrossEntropyLoss'),
        ),
        test_cfg=dict(mode='whole'),
    )


def build(method: str, norm: dict | None = None, preprocessor: dict | None = None, **kwargs):
    """Build a method over the tiny network."""
    torch.manual_seed(0)
    needs = copy.deepcopy(METHODS[method])
    data = {**PREPROCESSOR, **needs.pop('data_preprocessor', {}), **(preprocessor or {})}
    for head in needs.get('heads', {}).values():
        if norm and 'norm_cfg' in head:
            head['norm_cfg'] = norm
    cfg = {**dict(type=method, student=segmentor(norm), data_preprocessor=data), **needs, **kwargs}
    return MODELS.build(ConfigDict(copy.deepcopy(cfg)))


def streams(
    labeled: int = 2, unlabeled: int = 2, seed: int = 0, mixed: bool = True, strong: int = 1, size: int = SIZE
) -> Streams:
    """Random views, ``strong`` of them strong, a padded corner, void labels."""
    generator = torch.Generator().manual_seed(seed)

    def normal(count):
        return torch.randn(count, 3, size, size, generator=generator)

    labels = torch.randint(0, NUM_CLASSES, (labeled, 4, 4), generator=generator)
    labels = labels.repeat_interleave(size // 4, 1).repeat_interleave(size // 4, 2)
    labels[:, :2] = 255
    valid = torch.ones(unlabeled, size, size, dtype=torch.bool)
    mask = torch.zeros(unlabeled, size, size, dtype=torch.bool)
    if mixed:
        valid[0, -8:] = False
        mask[0, 4:20, 8:16] = True
    weak = normal(unlabeled)
    images, changed = normal(labeled), tuple(weak + 0.1 * normal(unlabeled) for _ in range(strong))
    mixes = tuple(Mix(mask.roll(4 * i, 2)) for i in range(strong))
    return Streams(images, labels, weak, changed, valid, mixes)


def streams_for(model, *args, **kwargs) -> Streams:
    """:func:`streams` with as many strong views as the model learns."""
    return streams(*args, strong=max(1, model.data_preprocessor.num_strong), **kwargs)


def batch(labeled: int = 2, unlabeled: int = 2, seed: int = 0, gt: bool = False) -> dict:
    """What a data loader hands to the preprocessor: uint8 crops of unequal size and data samples."""
    generator = torch.Generator().manual_seed(seed)
    images, samples = [], []
    for i in range(labeled + unlabeled):
        shape = (SIZE - 4 * (i % 2), SIZE)
        images.append(torch.randint(0, 256, (3, *shape), dtype=torch.uint8, generator=generator))
        sample = SegDataSample(metainfo=dict(stream='labeled' if i < labeled else 'unlabeled'))
        if i < labeled or gt:
            label = torch.randint(0, NUM_CLASSES, (1, *shape), generator=generator)
            sample.gt_sem_seg = PixelData(data=label)
        samples.append(sample)
    return dict(inputs=images, data_samples=samples)


class LabeledImages(Dataset):
    """Three labeled images, each a function of the seed that comes with its index; they show ``classes`` classes."""

    num_labeled = 3
    metainfo = dict(classes=tuple('abcd'))

    def __init__(self, classes: int) -> None:
        self.classes = classes

    def __len__(self) -> int:
        return self.num_labeled

    def __getitem__(self, key: tuple[int, int]) -> dict:
        made = batch(1, 0, seed=key[1])
        made['data_samples'][0].gt_sem_seg.data %= self.classes
        return {name: values[0] for name, values in made.items()}


def labeled_loader(classes: int = NUM_CLASSES) -> SimpleNamespace:
    """As much of a training data loader as ``PrototypeHook`` looks at."""
    return SimpleNamespace(
        dataset=LabeledImages(classes),
        batch_sampler=SimpleNamespace(sampler=SimpleNamespace(labeled=2)),
        num_workers=0,
        collate_fn=pseudo_collate,
        worker_init_fn=None,
    )


@torch.no_grad()
def decide(model, streams: Streams, spread: float, passes: int = 30) -> None:
    """Let the student predict several classes, sure and unsure: running statistics that fit, scores spread around 0."""
    student = model.student.train()
    for _ in range(passes):
        out = student(torch.cat([streams.weak, streams.labeled]))
    student.eval()
    classifier = student.segmentor.decode_head.conv_seg
    classifier.weight *= spread / out.coarse_logits.std()
    classifier.bias -= student(streams.weak).coarse_logits.mean((0, 2, 3))


@torch.no_grad()
def part_teacher(model, by: float, generator: torch.Generator) -> None:
    """A teacher that is the student but for a little noise."""
    model.teacher.load_state_dict(model.student.state_dict())
    for parameter in model.teacher.parameters():
        parameter.add_(by * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
