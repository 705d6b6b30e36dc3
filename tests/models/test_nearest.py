"""Nearest neighbours are those of float64, whatever blocks find them; of equal ones those that come first."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mmsemi.models.modules import nearest
from mmsemi.models.modules.nearest import nearest_neighbors


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def draw_classes(count: int, *shape: int, seed: int = 0) -> Tensor:
    return torch.randint(count, shape, generator=torch.Generator().manual_seed(seed))


def unit(x: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    return F.normalize(x, dim=-1).to(dtype)


def expected(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """All products in float64, each summed up alike, then a stable sort; numbers within each graph."""
    x = x.double()
    product = torch.stack([(node[:, None] * graph[:, None]).sum(-1) for graph in x for node in graph.split(1)])
    product = product.view(len(x), x.shape[1], -1)
    product.diagonal(dim1=1, dim2=2).fill_(-torch.inf)
    best = product.sort(dim=-1, descending=True, stable=True)
    return best.indices[..., :k], best.values[..., :k]


def assert_nearest(x: Tensor, k: int, ordered: bool = False) -> None:
    target, product = nearest_neighbors(x, k)
    batch, nodes, _ = x.shape
    index, value = expected(x, k)
    ours = target - torch.arange(0, batch * nodes, nodes)[:, None, None]
    assert ours.dtype == torch.long and target.shape == product.shape == index.shape
    if ordered:
        assert torch.equal(ours, index)
    assert torch.equal(ours.sort(-1).values, index.sort(-1).values)
    torch.testing.assert_close(product, value.to(x.dtype), rtol=0, atol=1e-6 if x.dtype == torch.float32 else 1e-11)


SMALL = pytest.mark.parametrize('block', [256, 7])


@SMALL
@pytest.mark.parametrize('nodes, k', [(600, 20), (600, 1), (599, 5), (41 * 41, 20), (30, 20), (12, 20), (2, 3)])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_the_neighbors_of_random_nodes_are_float64s(nodes, k, dtype, block, monkeypatch):
    monkeypatch.setattr(nearest, '_CPU_ROWS', block)
    assert_nearest(unit(draw(2, nodes, 16), dtype), min(k, nodes - 1))


@pytest.mark.parametrize('kinds', [1, 3, 40])
@pytest.mark.parametrize('k', [4, 20])
@SMALL
def test_of_equal_nodes_those_that_come_first_are_neighbors(kinds, k, block, monkeypatch):
    """Hundreds of equal nodes: far more than a first pass keeps."""
    monkeypatch.setattr(nearest, '_CPU_ROWS', block)
    directions = unit(draw(kinds, 24))
    assert_nearest(directions[draw_classes(kinds, 2, 420)], k)


def test_of_different_nodes_at_one_distance_those_that_come_first_are_neighbors():
    # Products of these are exact in any precision: multiples of 1 / 16.
    signs = 0.25 * (2 * draw_classes(2, 1, 500, 16) - 1)
    assert_nearest(signs.float(), 20)


def test_neighbors_may_be_dissimilar():
    """Pairs on the corners of a simplex: one neighbour is alike, all others equally far. 127 nodes fill no groups."""
    corners = torch.eye(64) - 1 / 64  # exact in any precision
    assert_nearest(corners.repeat(2, 1)[None, :127], 3)


def test_nodes_without_length_are_equal_to_each_other():
    assert_nearest(torch.zeros(1, 50, 4), 6, ordered=True)


@pytest.mark.parametrize('spread', [1e-1, 1e-2])
def test_neighbors_in_dense_crowds_are_float64s(spread):
    """Where float32 alone would confuse them: crowds of 75 nodes whose cosines lie close together."""
    x = unit(draw(8, 64).repeat(75, 1) + spread * draw(600, 64, seed=1))[None]
    assert_nearest(x, 20)
    if spread < 1e-1:
        rounded = x @ x.transpose(1, 2)
        rounded.diagonal(dim1=1, dim2=2).fill_(-torch.inf)
        plain = rounded.topk(20).indices.sort(-1).values
        assert not torch.equal(plain, expected(x, 20)[0].sort(-1).values), 'the case must tell float32 from float64'


def test_a_batch_at_once_finds_what_image_by_image_finds():
    """As on a GPU: one product for all images."""
    x = unit(draw(3, 96, 16))
    number = torch.arange(3.0 * 96, dtype=torch.float64).view(3, 96)
    together = nearest._first_pass(x, number, 11)
    for image in range(3):
        one = slice(image, image + 1)
        alone = nearest._first_pass(x[one], number[one], 11)
        assert torch.equal(together[0][one], alone[0])
        torch.testing.assert_close(together[1][one], alone[1], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    'nodes, count, size', [(10000, 26, 20), (4096, 26, 16), (10201, 26, 20), (1681, 26, 8), (13, 9, 1), (36, 9, 2)]
)
def test_groups_are_as_large_as_makes_the_least_to_look_at(nodes, count, size):
    """A divisor of the nodes where one is near; crops of 8k + 1 often have none (41, 97 and 101 are prime)."""
    assert nearest._group_size(nodes, count) == size


def test_a_block_takes_a_share_of_a_gpus_memory(monkeypatch):
    x = torch.empty(4, 10_000, 256, device='meta')
    monkeypatch.setattr(nearest, '_gpu_memory', lambda device: 64_000_000)
    assert nearest._rows_at_a_time(x, 40_000) == 50
    monkeypatch.setattr(nearest, '_gpu_memory', lambda device: 1000)
    assert nearest._rows_at_a_time(x, 40_000) == 1
    assert nearest._rows_at_a_time(torch.empty(4, 10_000, 256), 40_000) == nearest._CPU_ROWS
