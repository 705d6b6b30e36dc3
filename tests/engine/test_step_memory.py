"""What a step on the meta device tells of memory is what a step on the CPU takes."""

import json

import pytest
import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from torch.profiler import ProfilerActivity, profile

from mmsemi.engine.rehearsal import meta_copy
from mmsemi.engine.step_memory import PARTS, step_memory
from mmsemi.models.modules import nearest
from mmsemi.structures import Mix, Streams
from tests import tiny

SIDE = 96
"""Of crops: large enough that maps outweigh a network's weights."""


def make(method: str, **kwargs) -> tuple[nn.Module, Streams]:
    """A tiny method in training mode, and views for it."""
    model = tiny.build(method, preprocessor=dict(size=(SIDE, SIDE)), **kwargs).train()
    return model, tiny.streams_for(model, 4, 0 if method == 'Supervised' else 4, mixed=False, size=SIDE)


def on_meta(streams: Streams) -> Streams:
    return Streams(
        labeled=streams.labeled.to('meta'),
        labels=streams.labels.to('meta'),
        weak=streams.weak.to('meta'),
        strong=tuple(view.to('meta') for view in streams.strong),
        valid=streams.valid.to('meta'),
        mix=tuple(Mix(mix.mask.to('meta')) for mix in streams.mix),
    )


def measured_peak(model: nn.Module, streams: Streams, folder, amp: torch.dtype | None = None) -> int:
    """Bytes that torch's allocator for CPUs gave to a step at most, beyond what it had given before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watch:
        torch.zeros(1)
        with torch.autocast('cpu', amp or torch.bfloat16, enabled=amp is not None):
            loss = model.parse_losses(model.loss(streams))[0]
        loss.backward()
    watch.export_chrome_trace(str(folder / 'trace.json'))
    events = json.loads((folder / 'trace.json').read_text())['traceEvents']
    totals = [event['args']['Total Allocated'] for event in events if event['name'] == '[memory]']
    return max(totals) - totals[0]


@pytest.mark.parametrize('amp', [None, torch.bfloat16], ids=['float32', 'bf16'])
@pytest.mark.parametrize('method', tiny.METHODS)
def test_the_estimate_is_what_a_step_takes(method, amp, tmp_path, monkeypatch):
    # Of MLLC's neighbours a GPU finds many at a time, and a CPU few; here as many.
    monkeypatch.setattr(nearest, '_GPU_MEMORY', 2**25)
    model, streams = make(method)
    estimate = step_memory(meta_copy(model).train(), on_meta(streams), amp)
    taken = measured_peak(model, streams, tmp_path, amp)
    # What an operation needs inside of itself is not seen, and is much in a network of sixteen channels.
    most = 1.15 if method == 'MLLC' else 1.03  # the graph's sums over classes are one product on a GPU
    assert 0.88 < (estimate.peak - estimate.parts['images']) / taken < most


@pytest.mark.parametrize('method', ['Supervised', 'UniMatch', 'CorrMatch'])
def test_what_is_kept_is_what_autograd_keeps_in_a_true_step(method):
    model, streams = make(method)
    kept: dict[int, torch.UntypedStorage] = {}
    own = {x.untyped_storage().data_ptr() for x in (*model.parameters(), *model.buffers())}

    def keep(x):
        if x.untyped_storage().data_ptr() not in own:
            kept[x.untyped_storage().data_ptr()] = x.untyped_storage()
        return x.detach()

    with saved_tensors_hooks(keep, lambda x: x):
        loss = model.parse_losses(model.loss(streams))[0]
    true = sum(storage.nbytes() for storage in kept.values())
    del loss
    estimate = step_memory(meta_copy(model).train(), on_meta(streams))
    assert estimate.saved == pytest.approx(true, rel=0.02)


def test_parts_are_those_of_the_method():
    model, streams = make('MLLC')
    parts = step_memory(meta_copy(model).train(), on_meta(streams)).parts
    assert set(parts) == set(PARTS)
    assert all(parts[part] for part in ('images', 'student', 'heads', 'losses'))
    model, streams = make('Supervised')
    alone = step_memory(meta_copy(model).train(), on_meta(streams)).parts
    assert not alone['teacher'] and not alone['heads']
    assert alone['images'] == sum(x.untyped_storage().nbytes() for x in (streams.labeled, streams.labels))


def test_recomputed_blocks_take_less():
    model, streams = make('UniMatch')
    plain = step_memory(meta_copy(model).train(), on_meta(streams))
    network = tiny.segmentor()
    network['backbone']['with_cp'] = True
    model, _ = make('UniMatch', student=network)
    recomputed = step_memory(meta_copy(model).train(), on_meta(streams))
    assert recomputed.saved < 0.8 * plain.saved
    assert recomputed.peak < plain.peak


def test_half_precision_is_that_of_networks_alone():
    model, streams = make('MLLC')
    seen = {}
    meta = meta_copy(model).train()
    graph = meta.student.heads['graph']
    graph.register_forward_hook(lambda *args: seen.update(graph=args[-1].features[-1].dtype))
    meta.student.segmentor.backbone.register_forward_hook(lambda *args: seen.update(network=args[-1][0].dtype))
    step_memory(meta, on_meta(streams), torch.bfloat16)
    assert seen == dict(graph=torch.float32, network=torch.bfloat16)
    assert not torch.is_autocast_enabled('cpu')
