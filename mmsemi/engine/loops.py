"""Validation of every branch in one pass over the data."""

from __future__ import annotations

import copy

import torch
from mmengine.runner import ValLoop, autocast

from mmsemi.registry import LOOPS

from .utils import segmentor_of


@LOOPS.register_module()
class TeacherStudentValLoop(ValLoop):
    """Evaluate each branch of the model; metrics are named ``student/mIoU``, ``teacher/mIoU``.

    Images are read once and scored by each branch. Checkpoints pick the best by one of the names.
    """

    def __init__(self, *args, **kwargs) -> None:
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
