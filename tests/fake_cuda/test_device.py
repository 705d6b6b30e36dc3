"""The device without values sees what would fail or wait on a GPU, and lets pass what would not."""

from __future__ import annotations

import contextlib

import pytest
import torch
from mmengine.utils import digit_version
from torch import nn
from torch._subclasses.fake_tensor import DynamicOutputShapeException
from torch.nn import functional as F

from .autocast import HEADER, operators
from .device import CUDA, fake_cuda, why_not

INSTALLED = '2.14'
"""The oldest torch that `make install` takes today."""

pytestmark = pytest.mark.fake_cuda
here = pytest.mark.skipif(bool(why_not()), reason=why_not())


def test_there_is_such_a_device_with_the_torch_that_make_install_takes():
    assert not why_not() or digit_version(torch.__version__) < digit_version(INSTALLED), why_not()


def put(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.empty(*shape, dtype=dtype, device='cuda')


WAITS = dict(
    item=lambda: put(1).item(),
    condition=lambda: 1 if put(1).sum() > 0 else 0,
    tolist=lambda: put(3).tolist(),
    cpu=lambda: put(3).cpu(),
    numbers=lambda: put(3).to('cpu', non_blocking=True),
    mask=lambda: put(3)[put(3) > 0],
    write_by_mask=lambda: put(3).index_put_((put(3) > 0,), put(())),
    nonzero=lambda: put(3).nonzero(),
    unique=lambda: put(3).unique(),
    bincount=lambda: torch.bincount(put(3, dtype=torch.long)),
    repeat=lambda: put(3).repeat_interleave(put(3, dtype=torch.long)),
    equal=lambda: torch.equal(put(3), put(3)),
)


@here
@pytest.mark.parametrize('what', WAITS)
def test_the_host_waits_for_a_value(what):
    # Where a shape hangs on values there is none to go on with.
    with fake_cuda() as record, contextlib.suppress(DynamicOutputShapeException):
        WAITS[what]()
    assert record.waits


BLOCKS = dict(
    copy=lambda: torch.zeros(3).to('cuda'),
    write=lambda: put(3).copy_(torch.zeros(3)),
    numbers=lambda: torch.tensor([1.0, 2.0], device='cuda'),
    index=lambda: put(3)[torch.tensor([0, 1])],
)


@here
@pytest.mark.parametrize('what', BLOCKS)
def test_a_copy_of_the_host_blocks(what):
    with fake_cuda() as record:
        BLOCKS[what]()
    assert record.blocking


REFUSED = dict(
    index_copy=lambda half: put(3).index_copy(0, put(2, dtype=torch.long), put(2, dtype=half)),
    scatter=lambda half: put(3, 3).scatter_add(1, put(3, 3, dtype=torch.long), put(3, 3, dtype=half)),
    product=lambda half: put(3, 3) @ put(3, 3, dtype=half),
    lerp=lambda half: put(3).lerp(put(3, dtype=half), 0.5),
)


@here
@pytest.mark.parametrize('half', [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize('what', REFUSED)
def test_kernels_want_one_floating_point_type(what, half):
    with fake_cuda(), pytest.raises((TypeError, RuntimeError)):
        REFUSED[what](half)


@here
def test_what_neither_waits_nor_blocks_is_let_pass():
    with fake_cuda() as record:
        x = torch.zeros(3, 4).pin_memory().to('cuda', non_blocking=True)
        y = torch.where(x > 0, x, 0.0).gather(1, put(3, 2, dtype=torch.long)).sort().values
        y = y + torch.arange(2, device='cuda') * 2 + 1.0
        assert y.device == CUDA and y.is_cuda
    assert not record.waits and not record.blocking and record.sent.total() == 1


@here
def test_tensors_of_two_devices_do_not_meet():
    with fake_cuda(), pytest.raises(RuntimeError, match='device'):
        put(3) + torch.zeros(3)


@here
def test_the_host_computes_as_ever():
    with fake_cuda() as record:
        assert torch.equal(torch.arange(3) * 2, torch.tensor([0, 2, 4])) and torch.ones(3).sum().item() == 3
        assert torch.ones(3)[torch.ones(3) > 0].tolist() == [1, 1, 1]
    assert not record.waits and not record.launches


@here
def test_the_book_of_memory_knows_what_lives():
    with fake_cuda() as record:
        kept = put(1 << 20)
        view = kept.view(1024, 1024)[:2]
        assert record.now == 4 << 20
        put(1 << 20).add_(1)
        assert record.now == 4 << 20 and record.peak == 8 << 20
        del kept
        assert record.now == 4 << 20, 'a view keeps it'
        del view
        assert record.now == 0


@here
@pytest.mark.parametrize('half', [torch.float16, torch.bfloat16], ids=str)
def test_autocast_casts_what_torch_lists(half):
    with fake_cuda():
        layer, image = nn.Conv2d(3, 4, 3).to('cuda'), put(1, 3, 8, 8)
        with torch.autocast('cuda', half):
            out = layer(image)
            assert out.dtype == (out.flatten(1) @ out.flatten(1).T).dtype == half
            assert out.softmax(1).dtype == out.sum().dtype == F.cross_entropy(out, out.argmax(1)).dtype == torch.float32
            assert (out + 1).dtype == half and torch.cat([out, out.float()]).dtype == torch.float32
            with pytest.raises(RuntimeError, match='unsafe to autocast'):
                F.binary_cross_entropy(out.sigmoid(), out.sigmoid())
            with torch.autocast('cuda', enabled=False):
                assert layer(image).dtype == torch.float32
            loss = out.sum()
        loss.backward()
        assert layer.weight.grad.dtype == torch.float32 and layer.weight.grad.device == CUDA
        assert layer(image).dtype == torch.float32


def test_the_lists_of_autocast_are_read():
    found = operators(HEADER.read_text())
    assert ('conv2d', 'default') in found['lower'] and ('scaled_dot_product_attention', 'default') in found['lower']
    assert ('log_softmax', 'int') in found['full_dtype'] and ('exp', 'default') in found['full']
    assert ('grid_sampler', 'default') in found['promote']


@here
def test_half_arithmetic_outside_of_networks_is_noted():
    with fake_cuda() as record:
        record.phase = 'loss'
        x = put(3, dtype=torch.bfloat16)
        torch.cat([x, x]).float().exp()
        assert not record.half
        x * 2
        assert record.half


@here
def test_nothing_is_left_of_the_device_outside():
    with fake_cuda():
        put(1)
    assert not torch.cuda.is_available() or torch.cuda.get_device_name() != 'no GPU'
    with pytest.raises((RuntimeError, AssertionError)) if not torch.cuda.is_available() else fake_cuda():
        put(1)
    with torch.autocast('cpu', torch.bfloat16):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
