"""The embedded data set that `tools/dataset_converters/make_shapes.py` draws."""

from typing import Any

from mmseg.datasets import BaseSegDataset

from mmsemi.registry import DATASETS


@DATASETS.register_module()
class ShapesDataset(BaseSegDataset):
    """Scenes of seven kinds of textured things on a background, in PASCAL VOC's layout.

    Id 0 is the background, which is a class like the others; 255 marks the borders of things and is ignored.

    Args:
        data_prefix: Folders of the images and the label maps below ``data_root``.
        img_suffix: Ending of the image files.
        seg_map_suffix: Ending of the label maps.
        kwargs: What :class:`mmseg.datasets.BaseSegDataset` takes; ``ann_file`` is the list of the split.
    """

    METAINFO = {
        'classes': ('background', 'leaf', 'stone', 'flower', 'mushroom', 'shell', 'beetle', 'butterfly'),
        'palette': [
            [0, 0, 0],
            [60, 160, 60],
            [130, 130, 150],
            [230, 90, 170],
            [200, 60, 40],
            [245, 190, 90],
            [60, 60, 220],
            [60, 210, 230],
        ],
    }

    def __init__(
        self,
        data_prefix: dict[str, str] | None = None,
        img_suffix: str = '.jpg',
        seg_map_suffix: str = '.png',
        **kwargs: Any,
    ) -> None:
        super().__init__(
            data_prefix=data_prefix or {'img_path': 'JPEGImages', 'seg_map_path': 'SegmentationClass'},
            img_suffix=img_suffix,
            seg_map_suffix=seg_map_suffix,
            **kwargs,
        )
