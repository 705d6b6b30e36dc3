"""COCO's 80 kinds of things and the background, as semi-supervised segmentation evaluates it."""

from __future__ import annotations

from mmseg.datasets import BaseSegDataset, COCOStuffDataset

from mmsemi.registry import DATASETS


@DATASETS.register_module()
class COCO81Dataset(BaseSegDataset):
    """COCO 2017 with 81 classes: 0 is the background, a class like the others, 1 to 80 are the things in COCO's order.

    Masks are written by ``tools/dataset_converters/coco81.py``, those of both splits into one folder.

    Source: the protocol of PseudoSeg (Zou et al., 2021, arXiv:2010.09713), which UniMatch and UniMatch V2 follow.

    Args:
        **kwargs: Those of mmseg's ``BaseSegDataset``.
    """

    METAINFO = {
        'classes': ('background', *COCOStuffDataset.METAINFO['classes'][:80]),
        'palette': [[0, 0, 0], *COCOStuffDataset.METAINFO['palette'][:80]],
    }

    def __init__(self, img_suffix: str = '.jpg', seg_map_suffix: str = '.png', **kwargs) -> None:
        super().__init__(img_suffix=img_suffix, seg_map_suffix=seg_map_suffix, **kwargs)
