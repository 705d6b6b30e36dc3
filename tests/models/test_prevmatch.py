"""PrevMatch: what earlier networks say, how it is mixed and weighed, and what is kept."""

import json
import random
from types import SimpleNamespace

import pytest
import torch

from mmsemi import engine
from mmsemi.engine import PreviousNetworksHook
from tests import tiny, tiny_run
from tests.oracles import unimatch as oracle
from tests.test_training import saved, train


def model_with(kept: int, **kwargs):
    """A model that kept some networks, each another one; halfway through training."""
    model = tiny.build('PrevMatch', **{'threshold': 0.3, 'previous_threshold': 0.3, 'length': 3, **kwargs}).eval()
    for i in range(kept):
        generator = torch.Generator().manual_seed(i)
        with torch.no_grad():
            for parameter in model.student.segmentor.decode_head.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / parameter[0].numel() ** 0.5)
        model.remember()
    model.progress.fill_(0.25)
    return model


def test_without_earlier_networks_it_is_unimatch():
    losses = []
    for method in ('PrevMatch', 'UniMatch'):
        model = tiny.build(method, threshold=0.3).eval()
        losses.append(model.loss(tiny.streams_for(model)))
    assert losses[0].keys() == losses[1].keys()
    assert all(torch.equal(value, losses[1][name]) for name, value in losses[0].items())


def test_the_step_equals_the_published_loss():
    model = model_with(2, random_number=False, teachers=1, feature_dropout=0.0)
    streams = tiny.streams_for(model)
    random.seed(3)
    losses = model.loss(streams)
    total, _ = model.parse_losses(losses)
    random.seed(3)
    (chosen,) = random.sample(range(2), 1)
    with torch.no_grad():
        student, weak = model.student, streams.weak
        network = model.previous[chosen]
        coarse = network.decode_head(network.extract_feat(weak))
        prev = torch.nn.functional.interpolate(coarse, weak.shape[2:], mode='bilinear')
        both = []
        for scores in (student(weak).logits, prev):
            label, kept = oracle.pseudo_labels(scores.softmax(1), 0.3)
            terms = []
            for strong, mix in zip(streams.strong, streams.mix, strict=True):
                mixed = [oracle.mixed(x, mix.mask) for x in (label, kept, streams.valid)]
                terms.append(oracle.cross_entropy(student(oracle.mixed(strong, mix.mask)).logits, *mixed))
            terms.append(oracle.cross_entropy(student(weak).logits, label, kept, streams.valid))
            both.append(0.25 * terms[0] + 0.25 * terms[1] + 0.5 * terms[2])
        labeled = torch.nn.functional.cross_entropy(student(streams.labeled).logits, streams.labels, ignore_index=255)
        rises = 0.5  # lambda at a quarter of training
        expected = (labeled + both[0] + rises * both[1]) / (2 + rises)
    assert torch.allclose(total, expected, atol=1e-5) and abs(both[0] - both[1]) > 1e-3


@pytest.mark.parametrize(('progress', 'share'), [(0.0, 0.0), (0.25, 0.5), (0.5, 1.0), (0.75, 0.5)])
def test_their_share_rises_to_the_middle_of_training_and_falls(progress, share):
    model = model_with(1, previous_weight=0.8)
    model.progress.fill_(progress)
    assert float(model.share()) == pytest.approx(0.8 * share)
    assert tiny.build('PrevMatch').share() == 0.0


def test_one_to_k_networks_are_mixed_by_weights_that_follow_a_flat_dirichlet_law():
    model = model_with(3, teachers=2)
    seen, streams = [], tiny.streams_for(model)
    place = {id(network): i for i, network in enumerate(model.previous)}
    model.coarse_scores = lambda networks, images: [torch.eye(3)[place[id(x)]].view(1, 3, 1, 1) for x in networks]

    def labels(scores, threshold, valid):
        seen.append(scores[0, :, 0, 0])
        return scores

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr('mmsemi.models.segmentors.prevmatch.confident_labels', labels)
        torch.manual_seed(0)
        random.seed(0)
        for _ in range(2000):
            model.previous_labels(streams)
    weights = torch.stack(seen)
    assert torch.allclose(weights.sum(1), torch.ones(2000), atol=1e-5)
    used = (weights > 0).sum(1)
    assert set(used.tolist()) == {1, 2} and abs((used == 2).double().mean() - 0.5) < 0.05
    assert ((weights > 0).double().mean(0) - 0.5).abs().max() < 0.05, 'each as often as the others'
    # Of two, either weight is uniform in [0, 1].
    larger = weights[used == 2].max(1).values
    assert abs(larger.mean() - 0.75) < 0.02 and abs(larger.var() - 1 / 48) < 0.004


def test_the_oldest_network_goes_and_all_are_in_the_checkpoint():
    model = tiny.build('PrevMatch', length=2)
    bias = model.student.segmentor.decode_head.conv_seg.bias
    for i in range(3):
        with torch.no_grad():
            bias.fill_(i)
        model.remember()
    held = sorted(float(network.decode_head.conv_seg.bias[0]) for network in model.previous)
    assert held == [1.0, 2.0] and model.num_kept == 3
    other = tiny.build('PrevMatch', length=2)
    other.load_state_dict(model.state_dict())
    assert other.num_kept == 3
    assert sorted(float(network.decode_head.conv_seg.bias[0]) for network in other.previous) == held
    model.train()
    assert not any(module.training for module in model.previous.modules())
    assert not any(parameter.requires_grad for parameter in model.previous.parameters())


def test_earlier_networks_share_a_frozen_encoder():
    model = tiny.build('PrevMatch', freeze_encoder=True)
    assert all(network.backbone is model.student.segmentor.backbone for network in model.previous)


@pytest.mark.parametrize('frozen', [False, True])
def test_each_network_scores_the_weak_view_and_a_frozen_encoder_sees_it_once(frozen):
    model = model_with(3, freeze_encoder=frozen)
    networks, images, seen = list(model.previous), tiny.streams_for(model).weak, []
    with torch.no_grad():
        expected = [network.decode_head(tuple(network.extract_feat(images))) for network in networks]
        for backbone in {network.backbone for network in networks}:
            backbone.register_forward_hook(lambda *args: seen.append(1))
        scores = model.coarse_scores(networks, images)
    assert len(seen) == (1 if frozen else 3)
    assert all(torch.equal(a, b) for a, b in zip(scores, expected, strict=True))
    assert not torch.allclose(scores[0], scores[1])


def config(drawn, work_dir, **hook):
    cfg = tiny_run.config('PrevMatch', drawn, work_dir, epochs=3)
    cfg.model.previous_threshold = 0.1
    cfg.train_cfg.val_interval = 1
    cfg.default_hooks.previous.update(hook)
    cfg.default_hooks.checkpoint.max_keep_ckpts = 3
    return cfg


@pytest.mark.parametrize('select', ['best', 'all'])
def test_a_run_keeps_networks_and_resumes_bit_for_bit(select, drawn, tmp_path):
    losses = tiny_run.Losses()
    train(config(drawn, tmp_path / 'run', select=select), losses)
    state = saved(tmp_path / 'run', 3)['state_dict']
    count = int(state['kept'])
    if select == 'best':
        told = json.loads((tmp_path / 'run/previous_networks.json').read_text())
        first, second = told['1'], told['2']
        assert count == 1 + (second > first) and len(told) == 3
    else:
        assert count == 2 and not (tmp_path / 'run/previous_networks.json').exists()
    assert 'unsup.loss_previous' not in losses.steps[0] and 'unsup.loss_previous' in losses.steps[2]
    first_kept = {key: value for key, value in state.items() if key.startswith('previous.0.')}
    after_one = saved(tmp_path / 'run', 1)['state_dict']
    assert all(torch.equal(v, after_one[k.replace('previous.0', 'student.segmentor')]) for k, v in first_kept.items())
    for later in ('epoch_3.pth', 'epoch_2.pth', 'best_*.pth'):
        for path in (tmp_path / 'run').glob(later):
            path.unlink()
    (tmp_path / 'run/last_checkpoint').write_text(str(tmp_path / 'run/epoch_1.pth'))
    again = config(drawn, tmp_path / 'run', select=select)
    again.experiment_name = f'{again.experiment_name}-again'
    train(again, resume=True)
    resumed = saved(tmp_path / 'run', 3)['state_dict']
    assert all(torch.equal(value, resumed[key]) for key, value in state.items())


def test_the_hook_names_what_is_wrong(tmp_path):
    with pytest.raises(ValueError, match="select must be 'best' or 'all', not 'last'"):
        PreviousNetworksHook('last')
    runner = SimpleNamespace(model=tiny.build('UniMatch'), work_dir=str(tmp_path), epoch=0)
    with pytest.raises(ValueError, match='needs a method that keeps networks, but UniMatch keeps none'):
        PreviousNetworksHook().before_train(runner)
    with pytest.raises(ValueError, match=r"no metric='student/mDice'; it has student/mIoU"):
        PreviousNetworksHook(metric='student/mDice').after_val_epoch(runner, {'student/mIoU': 1.0})
    assert engine.PreviousNetworksHook is PreviousNetworksHook


@pytest.mark.parametrize(
    'arguments', [dict(length=0), dict(teachers=0), dict(previous_threshold=1.1), dict(previous_weight=-1)], ids=str
)
def test_arguments_out_of_range_are_named(arguments):
    with pytest.raises(ValueError, match=f'PrevMatch: model.{next(iter(arguments))} must'):
        tiny.build('PrevMatch', **arguments)
