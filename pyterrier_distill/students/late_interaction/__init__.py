"""The late-interaction student."""

from .late_interaction import LateInteraction

__all__ = ["LateInteraction"]
