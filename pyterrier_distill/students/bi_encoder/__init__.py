"""The bi-encoder student."""

from .bi_encoder import BiEncoder

__all__ = ["BiEncoder"]
