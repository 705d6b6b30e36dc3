"""Region propagation against algorithm 1, literally."""

import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from mmsemi.models.modules import regions
from mmsemi.models.modules.regions import binary_shapes, count_shapes, pack_shapes, packed_shapes, region_propagation
from mmsemi.structures import PseudoLabel
from tests.host_round_trips import no_host_round_trip
from tests.oracles import corrmatch as oracle

C = 5


def region_case(seed, batch=3, count=20, size=(24, 30), classes=C):
    """Blobs as labels, confident region and rows; regions of one class are common enough for shapes to act."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    blobs = lambda x: F.interpolate(x, size=size, mode='bilinear')  # noqa: E731
    label = blobs(draw(batch, classes, 3, 3)).argmax(1)
    confident = blobs(draw(batch, 1, 4, 4))[:, 0] > -0.3
    allowed = torch.ones(batch, *size, dtype=torch.bool)
    allowed[0, 5:14, 3:20] = False
    allowed[-1, 20:] = False
    return PseudoLabel(label, confident.double()), draw(batch, count, 4, 5).exp(), allowed


def literal(pseudo, shapes, threshold, cascade=False):
    """Algorithm 1 for a batch: labels, weights, and how many shapes acted."""
    results = [
        oracle.algorithm1(list(some), float(threshold), weight > 0, label, cascade)
        for some, weight, label in zip(shapes, pseudo.weight, pseudo.label, strict=True)
    ]
    labels, found, acted = zip(*results, strict=True)
    return torch.stack(labels), torch.stack(found).to(pseudo.weight.dtype), sum(len(x) for x in acted)


def masks(*lines: list[int]) -> torch.Tensor:
    """Shapes on a line of pixels, bool, (1, m, 1, n)."""
    return torch.tensor(lines, dtype=torch.bool)[None, :, None]


def on_a_line(label: list[int], confident: list[int]) -> PseudoLabel:
    return PseudoLabel(torch.tensor([[label]]), torch.tensor([[confident]]).double())


def outcome(pseudo, shapes, threshold=0.6, **kwargs) -> list[int]:
    return region_propagation(pseudo, pack_shapes(shapes), threshold, C, **kwargs).label.flatten().tolist()


# Shapes, eq. 7


@pytest.mark.parametrize('align_corners', [False, True])
def test_binary_shapes_equal_eq7(align_corners):
    generator = torch.Generator().manual_seed(0)
    rows = torch.rand(2, 3, 4, 6, generator=generator, dtype=torch.float64)
    shapes = binary_shapes(rows, (13, 17), align_corners)
    for b in range(2):
        for i in range(3):
            assert torch.equal(shapes[b, i], oracle.eq7(rows[b, i], (13, 17), align_corners))
    assert all(0 < part < 1 for part in shapes.double().mean((2, 3)).flatten())


def test_with_aligned_corners_a_row_of_a_crop_of_321_lies_on_its_pixels():
    """41 positions of stride 8: position i is pixel 8 i. The spot at one of them makes a shape around that pixel."""
    rows = torch.zeros(1, 1, 41, 41)
    rows[0, 0, 5, 40] = 1
    shape = binary_shapes(rows, (321, 321), True)[0, 0]
    where = shape.nonzero()
    assert where[:, 0].float().mean() == 40 and where[:, 1].max() == 320 and shape[40, 320]
    aside = binary_shapes(rows, (321, 321), False)[0, 0].nonzero()
    assert aside[:, 0].float().mean() != 40


@pytest.mark.parametrize('count', [1, 8, 11])
def test_shapes_are_packed_eight_to_a_byte_the_first_in_the_highest_bit(count):
    shapes = torch.rand(2, count, 3, 5, generator=torch.Generator().manual_seed(0)) > 0.5
    packed = pack_shapes(shapes)
    assert torch.equal(count_shapes(packed), shapes.sum(1).float())
    assert packed.dtype == torch.uint8 and packed.shape == (2, -(-count // 8), 3, 5)
    for i in range(8 * packed.shape[1]):
        bit = (packed[:, i // 8] >> (7 - i % 8)) & 1
        assert torch.equal(bit.bool(), shapes[:, i]) if i < count else not bit.any()


@pytest.mark.parametrize('align_corners', [False, True])
def test_packed_shapes_lie_where_they_may_and_memory_bounds_how_many_exist(align_corners, monkeypatch):
    _, rows, allowed = region_case(0, count=21)
    whole = pack_shapes(binary_shapes(rows, (24, 30), align_corners) & allowed[:, None])
    sizes = []
    original = regions.binary_shapes
    monkeypatch.setattr(regions, 'binary_shapes', lambda *args: sizes.append(args[0].shape[1]) or original(*args))
    monkeypatch.setitem(regions._PIXELS_AT_ONCE, 'cpu', 10 * allowed.numel())
    assert torch.equal(packed_shapes(rows, allowed, align_corners), whole) and sizes == [8, 8, 5]


# Algorithm 1


@pytest.mark.parametrize('cascade', [False, True])
@pytest.mark.parametrize('threshold', [0.0, 0.2, 0.5, 0.7, 0.95])
@pytest.mark.parametrize('count', [1, 8, 21])
def test_region_propagation_equals_algorithm1(threshold, count, cascade):
    acted = 0
    for seed in range(2):
        pseudo, rows, allowed = region_case(seed, count=count)
        result = region_propagation(pseudo, packed_shapes(rows, allowed), torch.tensor(threshold), C, cascade)
        each = zip(rows, allowed, strict=True)
        shapes = [[oracle.eq7(row, (24, 30)) & where for row in some] for some, where in each]
        label, weight, used = literal(pseudo, shapes, threshold, cascade)
        acted += used
        assert torch.equal(result.label, label) and torch.equal(result.weight, weight)
    assert acted or threshold > 0.9 or count == 1, 'the case must let some shapes act'


@pytest.mark.parametrize('threshold', [0.0, 0.1, 0.2, 0.3, 0.4])
def test_long_chains_of_shapes_that_relabel_each_other_equal_algorithm1(threshold):
    """Bands across random labels: nearly every shape changes what nearly every later one counts."""
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.rand(*shape, generator=generator)  # noqa: E731
    for _ in range(3):
        pseudo = PseudoLabel((draw(4, 9, 11) * 3).long(), (draw(4, 9, 11) > 0.3).float())
        shapes = (draw(4, 40, 9, 1) < 0.4) & (draw(4, 40, 1, 11) < 0.4)
        result = region_propagation(pseudo, pack_shapes(shapes), threshold, 3)
        expected, weight, _ = literal(pseudo, shapes, threshold)
        assert torch.equal(result.label, expected) and torch.equal(result.weight, weight)
        assert not torch.equal(literal(pseudo, shapes.flip(1), threshold)[0], expected), 'the order must matter'


def test_a_batch_of_any_size_fits_the_tables(monkeypatch):
    pseudo, rows, allowed = region_case(1)
    shapes = packed_shapes(rows, allowed)
    whole = region_propagation(pseudo, shapes, 0.4, C)
    monkeypatch.setattr(regions, '_ENTRIES_AT_ONCE', 2 * 256 * (C + 1) ** 2)
    monkeypatch.setitem(regions._PIXELS_AT_ONCE, 'cpu', 1)
    parts = region_propagation(pseudo, shapes, 0.4, C)
    assert torch.equal(whole.label, parts.label) and torch.equal(whole.weight, parts.weight)


def test_what_a_shape_wrote_is_not_confident_for_later_ones():
    pseudo = on_a_line([1, 1, 1, 2, 2, 2, 2, 0], [1, 1, 1, 0, 0, 0, 0, 0])
    first, second = [1, 1, 1, 1, 0, 0, 0, 0], [0, 0, 1, 1, 1, 0, 0, 0]
    # One of the second shape's three pixels is confident, whatever the first wrote; two were it to cascade.
    assert outcome(pseudo, masks(first, second)) == [1, 1, 1, 1, 2, 2, 2, 0]
    assert outcome(pseudo, masks(first, second), cascade=True) == [1, 1, 1, 1, 1, 2, 2, 0]
    assert outcome(pseudo, masks(second, first), cascade=True) == [1, 1, 1, 1, 2, 2, 2, 0]


@pytest.mark.parametrize('between', [0, 7, 8], ids=['same byte', 'across bytes', 'next byte'])
def test_a_later_shape_counts_the_labels_that_an_earlier_one_wrote(between):
    pseudo = on_a_line([1, 1, 1, 2, 2, 0], [1, 1, 1, 1, 1, 1])
    first, second = [1, 1, 1, 1, 0, 0], [0, 0, 0, 1, 1, 1]
    nothing = [[0] * 6] * between
    # Two of the second shape's three pixels are of class 2, until the first takes one of them.
    assert outcome(pseudo, masks(second)) == [1, 1, 1, 2, 2, 2]
    assert outcome(pseudo, masks(first, *nothing, second)) == [1, 1, 1, 1, 2, 0]
    assert outcome(pseudo, masks(second, *nothing, first)) == [1, 1, 1, 1, 2, 2]


def test_of_two_shapes_that_overlap_the_later_one_is_seen():
    pseudo = on_a_line([1, 1, 0, 0, 2, 2], [1, 1, 0, 0, 1, 1])
    left, right = [1, 1, 1, 1, 0, 0], [0, 0, 1, 1, 1, 1]
    assert outcome(pseudo, masks(left, right), 0.5) == [1, 1, 2, 2, 2, 2]
    assert outcome(pseudo, masks(right, left), 0.5) == [1, 1, 1, 1, 2, 2]


def test_both_shares_are_compared_as_documented():
    """An overlap of exactly tau is enough, a leading class of exactly tau is not."""
    shape = masks([1, 1, 1, 1, 0, 0])
    assert outcome(on_a_line([1, 1, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0]), shape, 0.5) == [1, 1, 1, 1, 0, 0]
    assert outcome(on_a_line([1, 1, 2, 2, 0, 0], [1, 1, 1, 1, 0, 0]), shape, 0.5) == [1, 1, 2, 2, 0, 0]
    # The quotient of the counts is compared, not a product with tau: 0.7 x 10 rounds to more than 7 in float32.
    ten = masks([1] * 10)
    seven = on_a_line([1] * 7 + [2] * 3, [1] * 10)
    assert outcome(seven, ten, torch.tensor(0.7)) == [1] * 7 + [2] * 3
    assert outcome(on_a_line([1] * 7 + [2] * 3, [1] * 7 + [0] * 3), ten, torch.tensor(0.7)) == [1] * 10


def test_the_votes_needed_are_the_fewest_whose_rounded_share_is_above_tau():
    generator = torch.Generator().manual_seed(0)
    confident = torch.randint(1, 801 * 801, (1, 500, 1, 8), generator=generator).float()
    pixels = torch.cat([torch.zeros_like(confident), confident], 2)
    shares = torch.randint(1, 100, (), generator=generator) / 100, (confident[0, 0, 0, 0] - 1) / confident[0, 0, 0, 0]
    for tau in (torch.tensor(0.0), *shares, torch.tensor(0.7), torch.rand((), generator=generator)):
        needed, most = regions._votes_needed(pixels, tau), confident[:, :, 0]
        assert (needed / most > tau).all() and ((needed - 1) / most <= tau).all()


def test_of_equal_counts_the_lower_class_leads():
    pseudo = on_a_line([3, 1, 1, 3, 2, 0], [1, 1, 1, 1, 0, 0])
    assert outcome(pseudo, masks([1, 1, 1, 1, 1, 0]), 0.3) == [1, 1, 1, 1, 1, 0]


def test_shapes_change_nothing_where_they_may_not_lie():
    pseudo, rows, allowed = region_case(0)
    result = region_propagation(pseudo, packed_shapes(rows, allowed), 0.3, C)
    assert (result.label != pseudo.label).any()
    assert torch.equal(result.label[~allowed], pseudo.label[~allowed])
    assert torch.equal(result.weight[~allowed], pseudo.weight[~allowed])


@pytest.mark.parametrize('threshold', [0.0, 0.5])
def test_a_shape_without_pixels_or_without_confident_ones_does_nothing(threshold):
    pseudo, rows, allowed = region_case(0)
    shapes = packed_shapes(rows, allowed)
    unsure = PseudoLabel(pseudo.label, torch.zeros_like(pseudo.weight))
    for case in ((unsure, shapes), (pseudo, torch.zeros_like(shapes))):
        result = region_propagation(*case, threshold, C)
        assert torch.equal(result.label, pseudo.label) and torch.equal(result.weight, case[0].weight)


def test_counts_are_exact_at_the_size_of_a_crop_and_under_autocast():
    """One vote of 300,000 decides; float32 sums and bfloat16 products would lose it."""
    place = torch.arange(801 * 801).view(1, 801, 801)
    inside = place < 600_001
    pseudo = PseudoLabel((place < 300_001).long(), inside.float())
    with torch.autocast('cpu', torch.bfloat16):
        result = region_propagation(pseudo, pack_shapes(inside[:, None]), 0.5, 19)
        even = region_propagation(pseudo, pack_shapes((place > 0)[:, None] & inside[:, None]), 0.5, 19)
    assert torch.equal(result.label, inside.long()) and torch.equal(even.label, pseudo.label)


# What it costs


class Launches(TorchDispatchMode):
    """Counts what a device would be asked to run: all operations but views."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        is_view = any(x.alias_info is not None and not x.alias_info.is_write for x in function._schema.returns)
        self.count += not is_view and function.overloadpacket.__name__ != '_unsafe_view'
        return function(*args, **(kwargs or {}))


def launches(count: int, batch: int = 2, side: int = 33) -> int:
    generator = torch.Generator().manual_seed(0)
    label = torch.randint(21, (batch, side, side), generator=generator)
    rows, allowed = torch.rand(batch, count, 5, 5, generator=generator), torch.ones_like(label, dtype=torch.bool)
    with Launches() as counted, torch.no_grad():
        region_propagation(PseudoLabel(label, label.float()), packed_shapes(rows, allowed), torch.tensor(0.85), 21)
    return counted.count


def test_launches_do_not_depend_on_the_pixels_and_are_few():
    """Decisions follow each other: two launches a shape, and some for each byte of them."""
    assert launches(128) == launches(128, batch=8) == launches(128, side=65) <= 465
    assert launches(128) - launches(120) <= 26


def test_it_traces_into_one_graph_and_never_waits():
    pseudo, rows, allowed = region_case(0, batch=2)

    def step(rows, tau):
        return region_propagation(pseudo, packed_shapes(rows, allowed), tau, C)

    torch._dynamo.reset()
    traced = torch.compile(step, backend='eager', fullgraph=True)
    with no_host_round_trip():
        expected = step(rows, pseudo.weight.mean())
    result = traced(rows, pseudo.weight.mean())
    assert torch.equal(result.label, expected.label) and torch.equal(result.weight, expected.weight)
    assert (expected.label != pseudo.label).any()
