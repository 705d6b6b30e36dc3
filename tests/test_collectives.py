"""What ranks exchange in a step does not grow with the crop."""

import json
from pathlib import Path

import pytest
import torch
from mmengine.registry import init_default_scope
from torch.nn.parallel import DistributedDataParallel

from mmsemi.engine.step_collectives import watch_gradients, watched_collectives, watched_norms
from mmsemi.models.state import StepState
from tests import tiny
from tests.ranks import on_two_ranks

CASES = [(method, mpmc) for method in tiny.METHODS for mpmc in (False, True)]
SIDES = (32, 64)
STEPS = 2


def exchange(rank: int, folder: str) -> None:
    """Note what this rank exchanges in steps of every method at two crops."""
    init_default_scope('mmsemi')
    found = {}
    for method, mpmc in CASES:
        for side in SIDES:
            size = dict(size=(side, side))
            model = tiny.build(method, preprocessor=size, plugins=[tiny.MPMC] if mpmc else []).train()
            wrapped = DistributedDataParallel(model, find_unused_parameters=True)
            gradients = watch_gradients(wrapped)
            states = [module for module in model.modules() if isinstance(module, StepState)]
            with watched_norms(model) as norms, watched_collectives() as others:
                for _ in range(STEPS):
                    unlabeled = 0 if method == 'Supervised' else 2
                    streams = tiny.streams_for(model, 2, unlabeled, seed=rank, mixed=False, size=side)
                    model.parse_losses(wrapped(streams, mode='loss'))[0].backward()
                    model.zero_grad()
                    for state in states:
                        state.commit()
            learned = sum(4 * p.numel() for p in model.parameters() if p.requires_grad)
            found[f'{method} {mpmc} {side}'] = dict(
                gradients=[x.size for x in gradients],
                others=[(x.name, x.size) for x in others],
                norms=[(x.name, x.size) for x in norms],
                learned=learned,
            )
    Path(folder, f'{rank}.json').write_text(json.dumps(found))


@pytest.fixture(scope='module')
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp('ranks')
    on_two_ranks(exchange, folder)
    return [json.loads((folder / f'{rank}.json').read_text()) for rank in (0, 1)]


@pytest.mark.parametrize(('method', 'mpmc'), CASES)
def test_nothing_that_ranks_exchange_grows_with_the_crop(found, method, mpmc):
    small, large = (found[0][f'{method} {mpmc} {side}'] for side in SIDES)
    assert small == large
    assert small['norms'], 'batch norms were seen'


@pytest.mark.parametrize(('method', 'mpmc'), CASES)
def test_ranks_exchange_the_same_and_each_gradient_once_a_step(found, method, mpmc):
    one, other = (rank[f'{method} {mpmc} {SIDES[0]}'] for rank in found)
    assert one == other
    assert sum(one['gradients']) == STEPS * one['learned']


def test_states_and_thresholds_are_reduced(found):
    reduced = {method for method, _ in CASES if found[0][f'{method} False 32']['others']}
    assert {'MLLC', 'CorrMatch', 'AEL', 'ESL', 'U2PL'} <= reduced
    assert not {'Supervised', 'FixMatch', 'UniMatch', 'MeanTeacher'} & reduced


def test_what_would_grow_is_noticed(tmp_path):
    on_two_ranks(_reduce_a_map, tmp_path)


def _reduce_a_map(rank: int, folder: str) -> None:
    with watched_collectives() as found:
        torch.distributed.all_reduce(torch.zeros(3, 5))
        places = [torch.zeros(7, dtype=torch.long) for _ in range(2)]
        torch.distributed.all_gather(places, torch.ones(7, dtype=torch.long))
    assert [(x.name, x.size) for x in found] == [('all_reduce', 60), ('all_gather', 56)]
    assert all(x.seconds > 0 for x in found)
    torch.distributed.all_reduce(torch.zeros(1))
    assert len(found) == 2
