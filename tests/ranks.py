"""Two processes that talk through gloo, for tests of what ranks agree on."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import torch
import torch.multiprocessing as mp
from torch import distributed

from mmsemi.apis.launch import leave

WORLD_SIZE = 2


def on_two_ranks(function: Callable[..., None], folder: Path, *args) -> None:
    """Call ``function(rank, folder, *args)`` in two processes, which meet in the existing ``folder``."""
    mp.spawn(_call, (function, str(folder), *args), nprocs=WORLD_SIZE)


def _call(rank: int, function: Callable[..., None], folder: str, *args) -> None:
    torch.set_num_threads(1)
    store, timeout = f'file://{folder}/store', timedelta(minutes=5)
    distributed.init_process_group('gloo', init_method=store, rank=rank, world_size=WORLD_SIZE, timeout=timeout)
    function(rank, folder, *args)
    distributed.destroy_process_group()
    leave(0)
