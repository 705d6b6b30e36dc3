"""Backbones that need mmpretrain; configs that name them import this by ``custom_imports``."""

from .dinov2 import DINOv2

__all__ = ['DINOv2']
