"""Prototypes move after the step that observed them."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from mmsemi.engine.utils import segmentor_of
from mmsemi.models.state import ClassQueues, FeatureQueues, Prototypes
from mmsemi.registry import HOOKS

from .commit_hook import CommitHook


@HOOKS.register_module()
class PrototypeHook(CommitHook):
    """Commit what the forward pass observed: reduced over ranks, folded into every prototype and queue of the model.

    A model with ``collect_prototypes`` is asked before training to start them from the labeled images.

    Raises:
        ValueError: Before training, if the model keeps no prototypes.
    """

    kind = (Prototypes, FeatureQueues, ClassQueues)
    name = 'prototypes'

    def before_train(self, runner: Runner) -> None:
        """Find the states, and let the model start them; what a checkpoint brought it keeps."""
        super().before_train(runner)
        model = segmentor_of(runner)
        if hasattr(model, 'collect_prototypes'):
            loader = runner.train_dataloader
            model.collect_prototypes(lambda number: labeled_batches(loader, number), loader.dataset.metainfo['classes'])


def labeled_batches(loader: DataLoader, number: int) -> Iterator[dict]:
    """Batches of the labeled images of a training loader, each once, in views that are a function of ``number``."""
    dataset = loader.dataset
    views = [(index, number * dataset.num_labeled + index) for index in range(dataset.num_labeled)]
    return iter(
        DataLoader(
            dataset,
            batch_size=loader.batch_sampler.sampler.labeled,
            sampler=views,
            num_workers=loader.num_workers,
            collate_fn=loader.collate_fn,
            worker_init_fn=loader.worker_init_fn,
            generator=torch.Generator(),  # starting workers draws a number, which shall not be one of the training's
        )
    )
