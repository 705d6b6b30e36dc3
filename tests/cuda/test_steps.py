"""Where there is a GPU: what tests/fake_cuda shows without values, with them.

Every method, alone and with MPMC, trains by its own config, runner, loader, hooks and optimizer in float32, float16 and
bfloat16. From the third step on torch itself raises where the host waits for the device.
"""

from __future__ import annotations

import math
from typing import Any
from unittest import mock

import pytest
import torch
from mmseg.structures import SegDataSample
from torch import nn

from mmsemi.apis.acceleration import set_amp
from mmsemi.apis.launch import build_runner
from mmsemi.engine.hooks.deferred_runtime_info_hook import DeferredRuntimeInfoHook
from mmsemi.engine.loops import ResumableEpochLoop
from mmsemi.registry import LOOPS
from tests import tiny_run
from tests.fake_cuda.steps import PRECISIONS

pytestmark = [pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')]

FREE = 2
"""Steps in which the host may wait: libraries do when first used, and states are made."""


@LOOPS.register_module()
class StepsOnCuda(ResumableEpochLoop):
    """Training in which the host must not wait for the device; what each step told stays there till the end."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.told: list[dict[str, torch.Tensor]] = []

    def run_iter(self, idx: int, data_batch: dict) -> None:
        """One step; what it told is kept."""
        torch.cuda.set_sync_debug_mode('error' if self.iter >= FREE else 'default')
        try:
            self.runner.call_hook('before_train_iter', batch_idx=idx, data_batch=data_batch)
            outputs = self.runner.model.train_step(data_batch, optim_wrapper=self.runner.optim_wrapper)
            self.runner.call_hook('after_train_iter', batch_idx=idx, data_batch=data_batch, outputs=outputs)
        finally:
            torch.cuda.set_sync_debug_mode('default')
        self.told.append(outputs)
        self._iter += 1


def train(method: str, drawn, work_dir, mpmc: bool, precision: str) -> tuple[nn.Module, list[dict[str, torch.Tensor]]]:
    """Four steps of a method's config for the embedded data set."""
    cfg = tiny_run.config(method, drawn, work_dir, mpmc=mpmc)
    tiny_run.only_steps(cfg, 'StepsOnCuda', interval=1000)  # the logger is what may wait
    if precision != 'float32':
        set_amp(cfg, precision)
    runner = build_runner(cfg)
    told = DeferredRuntimeInfoHook._hand_over

    def may_wait(*args: Any) -> None:
        torch.cuda.set_sync_debug_mode('default')
        told(*args)

    with mock.patch.object(DeferredRuntimeInfoHook, '_hand_over', may_wait):
        runner.train()
    return runner.model, runner.train_loop.told


@pytest.mark.parametrize('precision', PRECISIONS)
@pytest.mark.parametrize('mpmc', [False, True], ids=['alone', 'with MPMC'])
@pytest.mark.parametrize('method', tiny_run.METHOD_FILES)
def test_a_method_trains(method, mpmc, precision, drawn, tmp_path):
    model, told = train(method, drawn, tmp_path, mpmc, precision)
    assert len(told) > FREE
    for losses in told:
        assert losses and all(value.device.type == 'cuda' for value in losses.values())
        assert all(math.isfinite(float(value.detach())) for name, value in losses.items() if 'loss' in name), losses
    on_host = [n for n, x in [*model.named_parameters(), *model.named_buffers()] if x.device.type != 'cuda']
    assert not on_host, 'tensors that were left on the host'
    assert all(x.isfinite().all() for x in model.parameters())
    model.eval()
    image = torch.randint(256, (3, 64, 64), dtype=torch.uint8)
    (result,) = model.test_step(dict(inputs=[image], data_samples=[sample_of(image)]))
    assert result.pred_sem_seg.data.device.type == 'cuda'


def sample_of(image: torch.Tensor) -> SegDataSample:
    """What a pipeline tells of an image that it did not change."""
    shape = tuple(image.shape[1:])
    return SegDataSample(metainfo=dict(ori_shape=shape, img_shape=shape))
