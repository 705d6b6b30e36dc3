"""What methods are made of traces into one graph: no value comes to the host, no shape depends on one."""

import importlib
import inspect
import pkgutil
from functools import partial

import pytest
import torch
from torch import nn

import mmsemi.models
from mmsemi import structures
from mmsemi.models.branch import BranchOutput, image_channels, of_logits, share_classes
from mmsemi.models.checkpointing import recompute_blocks
from mmsemi.models.device import send
from mmsemi.models.frozen_encoder import encoded_once, is_frozen
from mmsemi.models.heads.patch_classifier import average
from mmsemi.models.losses.at_once import with_gradient_at_once
from mmsemi.models.losses.contrastive import intra_image_contrast, prototype_contrast
from mmsemi.models.losses.dice import PixelDiceLoss, dice_loss
from mmsemi.models.losses.info_nce import info_nce
from mmsemi.models.losses.multi_label import asymmetric_loss, weighted_binary_cross_entropy
from mmsemi.models.losses.pixel import (
    OhemCrossEntropyLoss,
    PixelCrossEntropyLoss,
    logit_distance,
    masked_mean,
    normalised_cross_entropy,
    pixel_cross_entropy,
    soft_cross_entropy,
)
from mmsemi.models.losses.soft import SOFT_LOSSES, soft_consistency
from mmsemi.models.modules.channel_dropout import ComplementaryDropout, channel_masks, complementary_masks
from mmsemi.models.modules.correlation import Correlation, pixel_propagation, sample_positions, sampled_rows
from mmsemi.models.modules.graph_ops import (
    dense_affinity,
    knn_affinity,
    propagate_features,
    propagate_labels,
    propagate_labels_dense,
)
from mmsemi.models.modules.label_graph import LabelGraph
from mmsemi.models.modules.nearest import nearest_neighbors, take_rows
from mmsemi.models.modules.receptive_field import Extent, receptive_fields
from mmsemi.models.modules.regions import (
    binary_shapes,
    count_shapes,
    pack_shapes,
    packed_shapes,
    region_propagation,
    write_shape,
)
from mmsemi.models.plugins.mpmc import micro_f1, patch_targets
from mmsemi.models.precision import full_precision, no_autocast, prediction_entropy, probabilities
from mmsemi.models.pseudo_labels import (
    class_aware_labels,
    confidence_weighted_labels,
    confident_labels,
    dynamic_soft_labels,
    image_confidence,
    label_accuracy,
)
from mmsemi.models.resizing import aligns_corners, resize_labels, resize_transposed, with_align_corners
from mmsemi.models.sampling import count_classes, draw_classes, draw_others, draw_partners, draw_per_class, thin_out
from mmsemi.models.state.parts import masked_average_pooling
from mmsemi.models.thresholds import class_thresholds, image_class_thresholds, order_statistics, quantiles
from mmsemi.models.views import BetaCutMix, CutMix, FixedAreaCutMix
from mmsemi.models.views.changes import change_images, within
from mmsemi.models.views.cutmix import box_masks, centred_boxes
from mmsemi.models.views.regions import region_boxes
from mmsemi.models.views.scaling import rescaled
from mmsemi.structures import Mix, PseudoLabel

B, C, D, H, W = 2, 4, 6, 6, 5
_generator = torch.Generator().manual_seed(0)
LOGITS, OTHER = torch.randn(2, B, C, H, W, generator=_generator) * 3
PROB = LOGITS.softmax(1)
LABEL = torch.randint(C, (B, H, W), generator=_generator)
VALID = torch.rand(B, H, W, generator=_generator) > 0.2
WEIGHT = torch.rand(B, H, W, generator=_generator)
PSEUDO = PseudoLabel(LABEL, WEIGHT, PROB)
MIX = Mix(torch.rand(B, H, W, generator=_generator) > 0.5)
FEATURES = torch.randn(B, D, H, W, generator=_generator)
NODES, ROWS = FEATURES.flatten(2).transpose(1, 2), PROB.flatten(2).transpose(1, 2)  # of graphs, (B, n, .)
NODE_LABEL, NODE_VALID = LABEL.flatten(1), VALID.flatten(1)
EDGES, AFFINITY = knn_affinity(NODES, 3)
CORRELATION = Correlation(FEATURES, FEATURES.flip(0))
MAPS = torch.rand(B, 3, H, W, generator=_generator)
PROTOTYPES, SEEN = torch.randn(C, D, generator=_generator), torch.tensor([True, True, False, True])
ROW_NUMBERS = torch.randint(20, (7, 5), generator=_generator)

# One line each: a function, a method or a module, and its arguments.
CASES = [
    # losses
    partial(pixel_cross_entropy, LOGITS, PSEUDO, VALID),
    partial(soft_cross_entropy, LOGITS, PSEUDO, VALID),
    partial(normalised_cross_entropy, LOGITS, PSEUDO, WEIGHT.sum()),
    partial(normalised_cross_entropy, LOGITS, PSEUDO, WEIGHT.sum((1, 2))),
    partial(dice_loss, LOGITS, PSEUDO, VALID),
    partial(PixelDiceLoss(0.5), LOGITS, LABEL, WEIGHT),
    partial(masked_mean, WEIGHT, VALID),
    partial(of_logits, masked_mean, BranchOutput((), WEIGHT[:, None], (9, 9))),
    partial(logit_distance, LOGITS, OTHER, VALID),
    *(partial(soft_consistency, LOGITS, OTHER.softmax(1), WEIGHT, VALID, kind) for kind in SOFT_LOSSES),
    partial(of_logits, pixel_cross_entropy, BranchOutput((), LOGITS[:, :, ::2], (H, W)), PSEUDO, VALID),
    partial(with_gradient_at_once, masked_mean, WEIGHT),
    partial(PixelCrossEntropyLoss(class_weight=[1.0, 2.0, 1.0, 0.5]), LOGITS, LABEL, WEIGHT),
    partial(OhemCrossEntropyLoss(0.7, 0.3), LOGITS, LABEL),
    partial(intra_image_contrast, NODES, NODE_LABEL, C, NODE_VALID),
    partial(prototype_contrast, NODES, NODE_LABEL, PROTOTYPES, SEEN, 0.1, NODE_VALID),
    partial(info_nce, NODES[0, :7], NODES[1, :7], NODES[1], ROW_NUMBERS, 0.5, torch.ones(7)),
    partial(asymmetric_loss, LOGITS, LABEL[:, None] == torch.arange(C)[:, None, None], 0.5, 1.5),
    partial(weighted_binary_cross_entropy, LOGITS, PROB, PROB),
    # pseudo-labels and thresholds
    partial(confident_labels, LOGITS, 0.6, VALID),
    partial(confident_labels, LOGITS, torch.linspace(0.5, 0.8, C), VALID),
    partial(class_aware_labels, LOGITS, 0.96, 0.5, VALID),
    partial(confidence_weighted_labels, LOGITS, 2.0, 0.3, VALID),
    partial(dynamic_soft_labels, LOGITS, 0.9, None, VALID),
    partial(dynamic_soft_labels, LOGITS, 0.9, 2),
    partial(image_confidence, LOGITS, VALID),
    partial(label_accuracy, LABEL, LABEL.flip(0), VALID),
    partial(class_thresholds, PROB, 0.6, VALID),
    partial(image_class_thresholds, PROB, 0.96, 0.5, VALID),
    partial(order_statistics, WEIGHT, torch.tensor([0, 3])),
    partial(quantiles, WEIGHT, VALID, torch.tensor([0.2, 0.8])),
    # modules
    partial(knn_affinity, NODES, 3, 1.0, NODE_VALID),
    partial(dense_affinity, NODES, 2.0, NODE_VALID),
    partial(propagate_labels, EDGES, AFFINITY, ROWS),
    partial(take_rows, ROWS[0], EDGES.index[0]),
    partial(nearest_neighbors, torch.nn.functional.normalize(NODES, dim=-1), 3),
    partial(propagate_labels_dense, dense_affinity(NODES), ROWS),
    partial(ComplementaryDropout(), (FEATURES, FEATURES)),
    partial(complementary_masks, PROB[0, 0] > 0.3, torch.randperm(H, generator=_generator), 2),
    partial(channel_masks, PROB[0] > 0.3, torch.randperm(H, generator=_generator), 2),
    *(partial(propagate_features, ROWS, NODES, NODE_VALID, expand) for expand in (False, True)),
    partial(LabelGraph(C, D, num_neighbors=3), PROB.log(), FEATURES, torch.full((C,), 0.6), VALID),
    partial(pixel_propagation, LOGITS, CORRELATION),
    partial(sampled_rows, CORRELATION, torch.tensor([0, 5, 7])),
    partial(sample_positions, 4, H * W, 'random', 'cpu'),
    partial(sample_positions, 4, H * W, 'uniform', 'cpu'),
    partial(write_shape, LABEL.flatten(1), VALID.flatten(1), VALID.flatten(1), 0.5, C),
    partial(binary_shapes, MAPS, (2 * H, 2 * W)),
    partial(pack_shapes, MAPS > 0.5),
    partial(packed_shapes, MAPS, VALID),
    partial(count_shapes, pack_shapes(MAPS > 0.2)),
    partial(region_propagation, PSEUDO, pack_shapes(MAPS > 0.2), 0.3, C),
    partial(region_propagation, PSEUDO, pack_shapes(MAPS > 0.2), 0.3, C, True),
    partial(masked_average_pooling, FEATURES, MAPS.round()),
    partial(draw_per_class, LABEL, VALID, C, 0.3, 5),
    partial(draw_classes, PROB[0, :, 0, 0], 5),
    partial(draw_partners, count_classes(LABEL, C), LABEL[:, 0, 0], 2),
    partial(draw_others, 3, 'cpu'),
    partial(count_classes, LABEL, C),
    partial(thin_out, LABEL, PROB[0, :, 0, 0]),
    partial(resize_labels, LABEL, (3, 4)),
    partial(resize_labels, VALID, (5, 3), True),
    partial(resize_labels, LABEL, (3, 4), True),
    partial(resize_transposed, MAPS, (3, 4)),
    partial(full_precision, LOGITS.half()),
    partial(probabilities, LOGITS.half()),
    partial(prediction_entropy, LOGITS.half()),
    partial(average, FEATURES, 3),
    partial(micro_f1, LOGITS, PROB > 0.5, VALID),
    partial(patch_targets, LABEL, C, (Extent(2, -1, 2), Extent(2.5, -1.2, 1)), (3, 2)),
    # views and what is mixed with them
    partial(CutMix(1.0), B, H, W, 'cpu'),
    partial(BetaCutMix((8, 2), 0.7), B, H, W, 'cpu'),
    partial(BetaCutMix((4, 4), 1.0, False), B, H, W, 'cpu'),
    *(partial(FixedAreaCutMix(0.5, sides, 1.0), B, H, W, 'cpu') for sides in ('width', 'logarithm')),
    partial(box_masks, torch.tensor([[0, 2, 1, 4], [3, 6, 0, 5]]), H, W),
    partial(centred_boxes, WEIGHT[0, 0, :2], torch.tensor([1, 4]), torch.tensor([0, 3]), H, W),
    partial(region_boxes, VALID, 3),
    partial(rescaled, FEATURES, LABEL, torch.tensor([0.4, 1.3]), torch.tensor([[0.3, 0.6], [0.0, 1.0]])),
    partial(MIX.images, LOGITS),
    partial(MIX.maps, LABEL),
    partial(MIX.labels, PSEUDO),
    partial(MIX.partners, LABEL),
    partial(Mix(MIX.mask, torch.tensor([1, 1])).partners, LABEL),
    partial(MIX.at, torch.tensor([0, 2]), torch.tensor([1, 3])),
    partial(PSEUDO.reweight, WEIGHT),
]
# Contexts, what runs before training, and what the host draws and sends.
NO_COMPUTATION = {
    aligns_corners,
    change_images,
    encoded_once,
    is_frozen,
    no_autocast,
    receptive_fields,
    recompute_blocks,
    send,
    image_channels,
    share_classes,
    with_align_corners,
    within,
}


def subject(case: partial):
    """The function, or the class, that a case speaks for."""
    function = case.func
    return getattr(function, '__func__', function if inspect.isfunction(function) else type(function))


def tensors_of(value) -> list[torch.Tensor]:
    """The tensors in nested containers and dataclasses."""
    if hasattr(value, '__dataclass_fields__'):
        value = [getattr(value, name) for name in value.__dataclass_fields__]
    if isinstance(value, (tuple, list)):
        return [tensor for item in value for tensor in tensors_of(item)]
    return [value] if isinstance(value, torch.Tensor) else []


def outputs_and_gradients(function, arguments: tuple) -> tuple[list, list]:
    """Of one call whose floating-point arguments learn."""
    inputs = [x for x in arguments if isinstance(x, torch.Tensor) and x.is_floating_point()]
    leaves = {id(x): x.detach().clone().requires_grad_() for x in inputs}
    torch.manual_seed(0)
    outputs = tensors_of(function(*(leaves.get(id(x), x) for x in arguments)))
    learned = [x.float().square().sum() for x in outputs if x.requires_grad]
    gradients = torch.autograd.grad(sum(learned), leaves.values(), allow_unused=True) if learned else []
    return outputs, gradients


@pytest.mark.parametrize('case', CASES, ids=lambda case: subject(case).__qualname__)
def test_it_traces_into_one_graph_and_computes_the_same(case):
    torch._dynamo.reset()
    expected = outputs_and_gradients(case.func, case.args)
    traced = torch.compile(case.func, backend='eager', fullgraph=True)
    for ours, theirs in zip(outputs_and_gradients(traced, case.args), expected, strict=True):
        torch.testing.assert_close(list(ours), list(theirs))
    assert expected[0] and not case.keywords


def public_functions() -> set:
    """What methods are made of: functions, losses and graphs that are classes, and what mixes views and labels.

    The methods themselves are in test_sync_free.py.
    """
    found = set()
    for info in pkgutil.walk_packages(mmsemi.models.__path__, 'mmsemi.models.'):
        if info.name.startswith('mmsemi.models.segmentors'):
            continue
        module = importlib.import_module(info.name)
        for name, value in vars(module).items():
            if name.startswith('_') or getattr(value, '__module__', None) != info.name:
                continue
            computes = inspect.isclass(value) and issubclass(value, nn.Module) and 'forward' in vars(value)
            if inspect.isfunction(value) or (computes and info.name.split('.')[2] in ('losses', 'modules')):
                found.add(value)
    for value in (structures.Mix, structures.PseudoLabel):
        found |= {v for name, v in vars(value).items() if inspect.isfunction(v) and not name.startswith('_')}
    return found


def test_no_public_function_of_the_models_is_left_out():
    missing = public_functions() - {subject(case) for case in CASES} - NO_COMPUTATION
    names = sorted(f'{value.__module__}.{value.__qualname__}' for value in missing)
    assert not names, f'Add a line to CASES for each of: {", ".join(names)}'


def test_a_host_round_trip_would_not_trace():
    def waits(x):
        return x[x > 0].sum() if x.sum() > 0 else x.sum()

    torch._dynamo.reset()
    with pytest.raises(torch._dynamo.exc.Unsupported):
        torch.compile(waits, backend='eager', fullgraph=True)(LOGITS)
