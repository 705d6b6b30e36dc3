"""Pseudo-labels to look at: pictures of steps, and how good they are where the truth is known."""

from __future__ import annotations

from pathlib import Path

import torch
from mmengine.dist import all_reduce, is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor, nn

from mmsemi.datasets.classes import palette
from mmsemi.engine.utils import segmentor_of
from mmsemi.registry import HOOKS
from mmsemi.structures import IGNORE_INDEX, Seen


@HOOKS.register_module()
class PseudoLabelHook(Hook):
    """Draw a step now and then, and follow the quality of pseudo-labels.

    Pictures go to ``<work folder>/pseudo_labels`` and to the visualizer's backends. Into the log and TensorBoard go,
    over the iterations since the last line:

    - ``pseudo/mining_ratio``: the share of the valid pixels that are kept;
    - where unlabeled images bring their ground truth (``train_dataloader.dataset.unlabeled_gt=True``): ``pseudo/mIoU``
      of all labels and ``pseudo/mIoU_kept`` of those that are kept, in percent, and ``pseudo/accuracy_kept``, the share
      of the kept ones that are right;
    - into TensorBoard alone ``pseudo/share_<class>``, the class distribution of what is kept.

    Off unless a config, or the command line, asks for it: ``default_hooks.pseudo_labels.type=PseudoLabelHook``. Counts
    stay on the device until the log is written; without the hook a step does nothing for it.

    Args:
        interval (int): Iterations between pictures; 0 draws none. Defaults to 500.
        log_interval (int): Iterations between lines of quality. Defaults to 50.
        images (int): Images of a picture at most. Defaults to 4.

    Raises:
        ValueError: If a number is out of range.
    """

    # Before the logger, which writes what this one measures.
    priority = 'NORMAL'

    def __init__(self, interval: int = 500, log_interval: int = 50, images: int = 4) -> None:
        if interval < 0 or log_interval < 1 or images < 1:
            raise ValueError(
                'PseudoLabelHook: interval must be 0 or more, log_interval and images 1 or more, not '
                f'{interval}, {log_interval} and {images}.'
            )
        self.interval = interval
        self.log_interval = log_interval
        self.images = images
        self._counts: Tensor | None = None

    def before_train(self, runner: Runner) -> None:
        """Ask the model to keep what it sees."""
        segmentor_of(runner).watching = True

    def after_train(self, runner: Runner) -> None:
        """Ask no more."""
        segmentor_of(runner).watching = False

    @torch.no_grad()
    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None, outputs: dict | None = None
    ) -> None:
        """Count, and where it is time, draw and tell."""
        seen = segmentor_of(runner).seen
        if seen is None or seen.pseudo is None:
            return
        counts = count(seen, segmentor_of(runner).num_classes)
        self._counts = counts if self._counts is None else self._counts + counts
        if self.every_n_train_iters(runner, self.log_interval):
            self._tell(runner)
        if self.interval and self.every_n_train_iters(runner, self.interval) and is_main_process():
            self._draw(runner, seen)

    def _tell(self, runner: Runner) -> None:
        all_reduce(self._counts)
        classes = runner.train_dataloader.dataset.metainfo['classes']
        shares = {}
        for name, value in quality(self._counts, classes).items():
            if name.startswith('share_'):
                shares[f'pseudo/{name}'] = value
            else:
                runner.message_hub.update_scalar(f'train/pseudo/{name}', value)
        # One a class, which would make a line of the log very long.
        runner.visualizer.add_scalars(shares, step=runner.iter + 1)
        self._counts = None

    def _draw(self, runner: Runner, seen: Seen) -> None:
        # Drawing needs matplotlib, which only those wait for who draw.
        from mmsemi.visualization.panels import draw_step

        meta = runner.train_dataloader.dataset.metainfo
        path = Path(runner.work_dir) / 'pseudo_labels' / f'iter_{runner.iter + 1}.png'
        picture = draw_step(
            seen,
            *normalisation(segmentor_of(runner).data_preprocessor),
            meta['classes'],
            meta.get('palette') or palette(len(meta['classes'])),
            path,
            self.images,
            takes_bgr(segmentor_of(runner).data_preprocessor),
        )
        runner.visualizer.add_image('pseudo_labels', picture, step=runner.iter + 1)


def normalisation(preprocessor: nn.Module) -> tuple[Tensor | float, Tensor | float]:
    """Mean and deviation that a preprocessor normalises with, 0 and 1 if it does not."""
    return (preprocessor.mean, preprocessor.std) if preprocessor._enable_normalize else (0.0, 1.0)


def takes_bgr(preprocessor: nn.Module) -> bool:
    """Whether the images that a preprocessor gives are still blue first, as they are read."""
    return not preprocessor._channel_conversion


def count(seen: Seen, num_classes: int) -> Tensor:
    """Pixels of a step by what is kept, by truth and by label, (2, C + 1, C); the last truth is "not known"."""
    pseudo, streams = seen.pseudo, seen.streams
    valid, kept = streams.valid, pseudo.weight > 0
    truth = torch.full_like(pseudo.label, num_classes)
    if streams.unlabeled_gt is not None:
        known = (streams.unlabeled_gt != IGNORE_INDEX) & (streams.unlabeled_gt < num_classes)
        truth = torch.where(known, streams.unlabeled_gt, truth)
    label = pseudo.label.clamp(max=num_classes - 1)
    cell = (kept.long() * (num_classes + 1) + truth) * num_classes + label
    counts = torch.zeros(2 * (num_classes + 1) * num_classes, dtype=torch.double, device=cell.device)
    counts.scatter_add_(0, cell.flatten(), valid.flatten().double())
    return counts.view(2, num_classes + 1, num_classes)


def quality(counts: Tensor, classes: list[str]) -> dict[str, float]:
    """What counts of pseudo-labels say, by the papers' names."""
    counts = counts.cpu()
    every, kept = counts.sum(0), counts[1]
    result = {'mining_ratio': float(kept.sum() / every.sum().clamp(min=1))}
    for name, pixels in zip(classes, kept.sum(0), strict=True):
        result[f'share_{name}'] = float(pixels / kept.sum().clamp(min=1))
    if every[:-1].sum() > 0:
        result['mIoU'] = _mean_iou(every[:-1])
        result['mIoU_kept'] = _mean_iou(kept[:-1])
        result['accuracy_kept'] = float(kept[:-1].trace() / kept[:-1].sum().clamp(min=1))
    return result


def _mean_iou(confusion: Tensor) -> float:
    """In percent, over the classes that occur."""
    right = confusion.diagonal()
    union = confusion.sum(0) + confusion.sum(1) - right
    return float(100 * (right / union.clamp(min=1))[union > 0].mean()) if (union > 0).any() else 0.0
