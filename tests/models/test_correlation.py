"""Correlation maps, pixel propagation and the head against the literal equations."""

import pytest
import torch
from torch.nn import functional as F

from mmsemi.models import BranchOutput, CorrelationHead, DeepLabV3PlusHead
from mmsemi.models.branch import Branch
from mmsemi.models.modules import correlation as fast
from mmsemi.models.modules.correlation import Correlation
from tests import tiny
from tests.oracles import corrmatch as oracle

C, D, H, W = 5, 3, 4, 6
DTYPES = pytest.mark.parametrize('dtype, tolerance', [(torch.float64, 1e-10), (torch.float32, 1e-5)])


@pytest.fixture(params=[None, 2 * 2 * H * W], ids=['one block', 'blocks of two rows'])
def blocks(request, monkeypatch):
    if request.param:
        monkeypatch.setitem(fast._BLOCK_ENTRIES, 'cpu', request.param)


def inputs(dtype=torch.float64, batch=2, size=(H, W)):
    generator = torch.Generator().manual_seed(0)
    draw = lambda channels: torch.randn(batch, channels, *size, generator=generator, dtype=dtype)  # noqa: E731
    return 2 * draw(C), 2 * draw(D), 2 * draw(D)


def literal_propagation(scores, rows, columns):
    return torch.stack(
        [
            oracle.eq5(s.flatten(1), oracle.eq4(a.flatten(1), b.flatten(1))).view_as(s)
            for s, a, b in zip(scores, rows, columns, strict=True)
        ]
    )


# Pixel propagation, eq. 4 and 5


@DTYPES
def test_pixel_propagation_equals_eq5(dtype, tolerance, blocks):
    scores, rows, columns = inputs()
    expected = literal_propagation(scores, rows, columns).to(dtype)
    z = fast.pixel_propagation(scores.to(dtype), Correlation(rows.to(dtype), columns.to(dtype)))
    assert z.dtype == dtype
    torch.testing.assert_close(z, expected, rtol=tolerance, atol=tolerance)


def test_its_gradients_equal_eq5s_and_none_goes_into_the_scores(blocks):
    scores, rows, columns = (x.requires_grad_() for x in inputs())
    direction = torch.randn_like(scores)
    z = fast.pixel_propagation(scores, Correlation(rows, columns))
    ours = torch.autograd.grad((z * direction).sum(), (rows, columns, scores), allow_unused=True)
    literal = torch.autograd.grad((literal_propagation(scores, rows, columns) * direction).sum(), (rows, columns))
    assert ours[2] is None
    for a, b in zip(ours[:2], literal, strict=True):
        assert torch.allclose(a, b, atol=1e-10)


def test_pixel_propagation_passes_gradcheck(monkeypatch):
    monkeypatch.setitem(fast._BLOCK_ENTRIES, 'cpu', 12)
    scores, rows, columns = inputs(batch=1, size=(2, 3))
    function = lambda a, b: fast.pixel_propagation(scores[:, :2], Correlation(a, b))  # noqa: E731
    assert torch.autograd.gradcheck(function, (rows.requires_grad_(), columns.requires_grad_()))


def test_the_softmax_normalises_rows_and_the_sum_runs_over_them():
    """Two positions, the second row of the map looks at the first position alone: all scores gather there."""
    rows, columns = torch.tensor([[[[50.0, 50.0]]]]), torch.tensor([[[[1.0, -1.0]]]])
    z = fast.pixel_propagation(torch.tensor([[[[1.0, 2.0]]]]), Correlation(rows, columns))
    assert torch.allclose(z, torch.tensor([[[[3.0, 0.0]]]]))


def test_a_large_map_is_never_stored(monkeypatch):
    seen = []
    original = fast._map_rows
    monkeypatch.setattr(fast, '_map_rows', lambda *args: seen.append(original(*args).shape) or original(*args))
    scores, rows, columns = inputs(torch.float32, batch=1, size=(40, 40))
    rows.requires_grad_()
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x.numel()) or x, lambda x: x):
        z = fast.pixel_propagation(scores, Correlation(rows, columns))
    z.sum().backward()
    limit = fast._BLOCK_ENTRIES['cpu']
    assert len(seen) > 2 and all(shape.numel() <= limit < 1600**2 for shape in seen)
    assert max(saved) <= C * 1600


def test_sampled_rows_are_rows_of_the_map():
    _, rows, columns = inputs()
    index = torch.tensor([7, 0, 20])
    sampled = fast.sampled_rows(Correlation(rows.requires_grad_(), columns), index)
    for b in range(2):
        C_map = oracle.eq4(rows[b].flatten(1), columns[b].flatten(1))
        assert torch.allclose(sampled[b].flatten(1), C_map[index], atol=1e-10)
    assert not sampled.requires_grad


def test_half_precision_is_computed_in_float32_also_under_autocast():
    scores, rows, columns = (x.to(torch.bfloat16) for x in inputs(torch.float32))
    with torch.autocast('cpu', torch.bfloat16):
        z = fast.pixel_propagation(scores, Correlation(rows, columns))
        some = fast.sampled_rows(Correlation(rows, columns), torch.tensor([1, 2]))
    whole = Correlation(rows.float(), columns.float())
    assert torch.equal(z, fast.pixel_propagation(scores.float(), whole))
    assert torch.equal(some, fast.sampled_rows(whole, torch.tensor([1, 2])))


# Sampling


def test_random_positions_are_distinct_and_change():
    draws = [fast.sample_positions(20, 24, 'random', 'cpu') for _ in range(2)]
    assert all(len(draw.unique()) == 20 and draw.min() >= 0 and draw.max() < 24 for draw in draws)
    assert not torch.equal(*draws)


@pytest.mark.parametrize('count, total', [(3, 12), (5, 12), (12, 12), (128, 1681)])
def test_uniform_positions_are_evenly_spaced_and_centred(count, total):
    positions = fast.sample_positions(count, total, 'uniform', 'cpu')
    gaps = positions.diff()
    assert len(positions) == count and gaps.min() >= 1 and gaps.max() - gaps.min() <= 1
    assert abs(int(positions[0]) - int(total - 1 - positions[-1])) <= 1


# The head, and where it reads


def test_the_head_is_a_block_with_dropout_and_two_projections():
    torch.manual_seed(0)
    head = CorrelationHead(8, out_channels=3, hidden_channels=6).eval()
    x = torch.randn(2, 8, 5, 5)
    out = head(BranchOutput((torch.zeros(1), x), torch.zeros(2, 4, 5, 5), (20, 20)))
    block, dropout = head.layers
    hidden = F.relu(block.bn(block.conv(x)))
    assert block.conv.kernel_size == (3, 3) and isinstance(dropout, torch.nn.Dropout2d) and dropout.p == 0.1
    assert torch.allclose(out.rows, head.rows(hidden), atol=1e-6)
    assert torch.allclose(out.columns, head.columns(hidden), atol=1e-6)
    assert out.rows.shape == (2, 3, 5, 5) and not torch.allclose(out.rows, out.columns)
    parts = out.split([1, 1])
    assert torch.equal(parts[1].rows, out.rows[1:]) and torch.equal(parts[1].columns, out.columns[1:])


@pytest.mark.parametrize(
    'source, channels, module', [('aspp', 16, 'bottleneck'), ('fusion', 16, 'fuse'), ('classifier', 4, 'conv_seg')]
)
def test_the_head_reads_the_position_that_it_names_and_clean_images_alone(source, channels, module):
    torch.manual_seed(0)
    head = dict(type='CorrelationHead', in_channels=channels, out_channels=3, hidden_channels=4, source=source)
    branch = Branch(tiny.segmentor(), dict(correlation=head)).eval()
    kept = []
    branch.segmentor.decode_head.get_submodule(module).register_forward_hook(lambda m, a, out: kept.append(out))
    views = dict(a=torch.randn(1, 3, 32, 32), b=torch.randn(2, 3, 32, 32))
    with torch.no_grad():
        outputs = branch.forward_perturbed(lambda x: 0 * x, 1, **views)
        again = branch.heads['correlation'].layers(kept[0][:3])
    rows = torch.cat([outputs[name].heads['correlation'].rows for name in views])
    assert torch.allclose(rows, branch.heads['correlation'].rows(again), atol=1e-6)


def test_a_position_that_the_decoder_does_not_have_is_named_with_those_it_has():
    cfg = tiny.segmentor()
    cfg['decode_head'] = dict(type='DeepLabV2Head', in_channels=64, in_index=3, num_classes=4, dilations=(1,))
    head = dict(type='CorrelationHead', in_channels=16, out_channels=3, source='aspp')
    with pytest.raises(ValueError, match=r"source='aspp', which DeepLabV2Head .*: backbone, classifier\.$"):
        Branch(cfg, dict(correlation=head))
    assert set(DeepLabV3PlusHead.positions) == {'aspp', 'fusion'}


def test_channels_that_do_not_fit_the_position_are_named():
    head = CorrelationHead(8, 3, source='classifier')
    with pytest.raises(ValueError, match=r"in_channels=8, but source='classifier' has 4 channels; set .*in_channels=4"):
        head(BranchOutput((torch.zeros(1, 8, 2, 2),), torch.zeros(1, 4, 2, 2), (8, 8)))


@pytest.mark.parametrize('arguments', [dict(source='neck'), dict(dropout=1.0), dict(hidden_channels=0)])
def test_arguments_out_of_range_are_named(arguments):
    with pytest.raises(ValueError, match='CorrelationHead'):
        CorrelationHead(8, 3, **arguments)
