import pytest
import torch
from mmengine.registry import DefaultScope, init_default_scope


@pytest.fixture(scope='session', autouse=True)
def unformatted_configs():
    """mmengine formats the config whenever it saves a checkpoint, which takes longer than a tiny training."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr('yapf.yapflib.yapf_api.FormatCode', lambda text, **kwargs: (text, False))
        yield


@pytest.fixture(autouse=True)
def mmsemi_scope():
    """Configs name components without a prefix, as in a run; runs leave no scope behind."""
    before = dict(DefaultScope._instance_dict)
    init_default_scope('mmsemi')
    torch.manual_seed(0)
    yield
    DefaultScope._instance_dict.clear()
    DefaultScope._instance_dict.update(before)
