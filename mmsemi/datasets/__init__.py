"""Data sets, samplers and transforms; importing this registers them, and mmseg's."""

from .acdc import ACDCDataset
from .camvid import CamVidDataset
from .coco81 import COCO81Dataset
from .evaluation import check_evaluation_data
from .image_folder import ImageFolder
from .limit_side import LimitSide
from .listed import ListedDataset
from .partition import draw_partition, labeled_count, read_list, write_list
from .semi_dataset import SemiDataset
from .shapes import ShapesDataset
from .stream_sampler import StreamBatchSampler, StreamSampler
from .transforms import LoadReducedImage, LoadSegAnnotations, RandomCrop, RandomScale
from .voc import PascalVOCAugDataset

__all__ = [
    'ACDCDataset',
    'COCO81Dataset',
    'CamVidDataset',
    'ImageFolder',
    'LimitSide',
    'ListedDataset',
    'LoadReducedImage',
    'LoadSegAnnotations',
    'PascalVOCAugDataset',
    'RandomCrop',
    'RandomScale',
    'SemiDataset',
    'ShapesDataset',
    'StreamBatchSampler',
    'StreamSampler',
    'check_evaluation_data',
    'draw_partition',
    'labeled_count',
    'read_list',
    'write_list',
]
