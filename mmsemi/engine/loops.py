"""Validation of every branch in one pass over the data; validation and test data are checked before they are used."""

from __future__ import annotations

import copy
from typing import Any

import torch
from mmengine.evaluator import Evaluator
from mmengine.runner import Runner, TestLoop, ValLoop, autocast
from torch.utils.data import DataLoader

from mmsemi.registry import LOOPS

from .utils import segmentor_of


class _CheckedLoop:
    """Checks the data before the loop builds its loader."""

    data_key = ''

    def __init__(
        self,
        runner: Runner,
        dataloader: DataLoader | dict,
        evaluator: Evaluator | dict | list,
        fp16: bool = False,
        check_files: bool = True,
    ) -> None:
        if check_files and isinstance(dataloader, dict):
            # Importing mmseg's data sets takes seconds and prints, which is too much for a tool's --help.
            from mmsemi.datasets import check_evaluation_data

            check_evaluation_data(dataloader['dataset'], self.data_key)
        super().__init__(runner, dataloader, evaluator, fp16)


@LOOPS.register_module()
class TeacherStudentValLoop(_CheckedLoop, ValLoop):
    """Evaluate each branch of the model; metrics are named ``student/mIoU``, ``teacher/mIoU``.

    Images are read once and scored by each branch. Checkpoints pick the best by one of the names. The Runner makes this
    loop, and so has the data checked, before training.

    Args:
        runner (Runner): The runner.
        dataloader (DataLoader | dict): A data loader, or its config.
        evaluator (Evaluator | dict | list): Metrics.
        fp16 (bool): Whether to validate in half precision. Defaults to False.
        check_files (bool): Whether all files, and the ids in all masks, are checked; a built data loader is not.
            Defaults to True.

    Raises:
        FileNotFoundError, ValueError, RuntimeError: Those of :func:`mmsemi.datasets.check_evaluation_data`.
    """

    data_key = 'val_dataloader'

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._branch_evaluators = {}

    def run(self) -> dict[str, float]:
        """Launch validation."""
        self.runner.call_hook('before_val')
        self.runner.call_hook('before_val_epoch')
        self.runner.model.eval()
        model = segmentor_of(self.runner)
        self._branch_evaluators = {branch: copy.deepcopy(self.evaluator) for branch in model.branches}
        for idx, data_batch in enumerate(self.dataloader):
            self.run_iter(idx, data_batch)
        metrics = {}
        for branch, evaluator in self._branch_evaluators.items():
            results = evaluator.evaluate(len(self.dataloader.dataset))
            metrics.update({f'{branch}/{name}': value for name, value in results.items()})
        self.runner.call_hook('after_val_epoch', metrics=metrics)
        self.runner.call_hook('after_val')
        return metrics

    @torch.no_grad()
    def run_iter(self, idx: int, data_batch: dict) -> None:
        """Score one batch with each branch."""
        self.runner.call_hook('before_val_iter', batch_idx=idx, data_batch=data_batch)
        model = segmentor_of(self.runner)
        predicts, outputs = model.predict_on, None
        try:
            for branch, evaluator in self._branch_evaluators.items():
                model.predict_on = branch
                with autocast(enabled=self.fp16):
                    outputs = self.runner.model.val_step(copy.copy(data_batch))
                evaluator.process(data_samples=outputs, data_batch=data_batch)
        finally:
            model.predict_on = predicts
        self.runner.call_hook('after_val_iter', batch_idx=idx, data_batch=data_batch, outputs=outputs)


@LOOPS.register_module()
class CheckedTestLoop(_CheckedLoop, TestLoop):
    """mmengine's ``TestLoop`` over data that is checked first.

    Arguments and errors are those of :class:`TeacherStudentValLoop`.
    """

    data_key = 'test_dataloader'
