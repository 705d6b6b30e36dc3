"""Learning rates that fall layer by layer towards the input, for the network that a student holds."""

from __future__ import annotations

import contextlib
import io

from mmengine.logging import print_log
from mmseg.engine.optimizers import layer_decay_optimizer_constructor as mmseg
from torch import nn

from mmsemi.registry import OPTIM_WRAPPER_CONSTRUCTORS


class _OfTheStudent:
    """In front of a constructor of mmseg: it is shown the student's segmentor in place of the whole model.

    What else learns, such as a method's heads, has the full rate, as decode heads have; one-dimensional parameters and
    biases do not decay.
    """

    def add_params(self, params: list[dict], module: nn.Module, **kwargs) -> None:
        """Collect the groups of ``module``."""
        network = module.student.segmentor
        kind = type(network.backbone).__name__
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # a line for each parameter
                super().add_params(params, network, **kwargs)
        except NotImplementedError as error:
            decay = self.paramwise_cfg.get('decay_type', 'layer_wise')
            raise ValueError(
                f"optim_wrapper.constructor='{type(self).__name__}': mmseg does not know the layers of {kind} for "
                f"paramwise_cfg.decay_type='{decay}' (it knows those of ConvNeXt, and layer by layer of BEiT and MAE); "
                "take 'mmpretrain.LearningRateDecayOptimWrapperConstructor' for a backbone of mmpretrain, or set rates "
                "by name: constructor='SemiOptimWrapperConstructor' with paramwise_cfg.custom_keys."
            ) from error
        known = {id(parameter) for group in params for parameter in group['params']}
        others: dict[float, dict[str, nn.Parameter]] = {}
        for name, parameter in module.named_parameters():
            if parameter.requires_grad and id(parameter) not in known:
                decays = parameter.ndim > 1 and not name.endswith('.bias')
                others.setdefault(self.base_wd if decays else 0.0, {})[name] = parameter
        for decay, named in others.items():
            tensors, names = list(named.values()), list(named)
            params.append(dict(params=tensors, param_names=names, lr=self.base_lr, lr_scale=1.0, weight_decay=decay))
        for group in sorted(params, key=lambda group: group['lr']):
            print_log(f'{len(group["params"])} parameter tensors learn at a base rate of {group["lr"]:g}', 'current')


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class LearningRateDecayOptimizerConstructor(_OfTheStudent, mmseg.LearningRateDecayOptimizerConstructor):
    """mmseg's constructor of this name, for ConvNeXt, BEiT and MAE, applied to the student's network.

    Raises:
        ValueError: If mmseg does not know the layers of the backbone.
    """


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class LayerDecayOptimizerConstructor(_OfTheStudent, mmseg.LayerDecayOptimizerConstructor):
    """mmseg's older name of the same for BEiT."""
