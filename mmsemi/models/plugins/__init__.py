from .mpmc import MPMC
from .plugin import Plugin

__all__ = ['MPMC', 'Plugin']
