"""The USTAD student: one encoder that scores in three ways."""

from .ustad import USTAD

__all__ = ["USTAD"]
