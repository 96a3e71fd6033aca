"""Models, arrays and tensors by all of their numbers: what their reprs show is the beginning and the end."""

from __future__ import annotations

import hashlib
import pickle
import re
import sys
import weakref
from typing import Any

import numpy as np
import pandas as pd

from ..engine import model_state
from .comparison import class_name

#: What modules were when they were first seen; they are held weakly.
_states: weakref.WeakKeyDictionary[Any, model_state.ModelState] = weakref.WeakKeyDictionary()


def told(value: Any) -> dict[str, Any] | None:
    """A value of many numbers as plain data; None for any other value."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.nn.Module):
        return module(value)
    if torch is not None and isinstance(value, torch.Tensor):
        return _tensor(value)
    if isinstance(value, np.ndarray):
        return _array(value)
    if isinstance(value, pd.Index):
        return {"class": class_name(type(value)), "values": _array(value.to_numpy())}
    if isinstance(value, re.Pattern):
        return {"pattern": value.pattern, "flags": int(value.flags)}
    if callable(getattr(value, "tocoo", None)):  # a sparse matrix
        parts = value.tocoo()
        return {"shape": list(parts.shape), "parts": [_array(part) for part in (parts.row, parts.col, parts.data)]}
    if callable(getattr(value, "get_params", None)) and callable(getattr(value, "predict", None)):  # scikit-learn's way
        return {"class": class_name(type(value)), "learnt": _digest(pickle.dumps(value, protocol=4))}
    return None


def is_module(value: Any) -> bool:
    """Whether a value is a torch module."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.nn.Module)


def module(value: Any) -> dict[str, Any]:
    """A torch module by its layers, its weights, and the settings that its library keeps with it."""
    layers = re.sub(r" at 0x[0-9a-fA-F]+", "", repr(value))
    told = {"class": class_name(type(value)), "layers": _digest(layers.encode())}
    return {**told, "weights": _state(value).fingerprint(), "settings": model_state.settings(value)}


def trained(value: Any) -> str | None:
    """The weights of a torch module, if they are others than when it was first seen."""
    state = _state(value)
    return state.fingerprint() if state.rewritten else None


def _state(value: Any) -> model_state.ModelState:
    if value not in _states:
        _states[value] = model_state.ModelState(weakref.proxy(value))
    return _states[value]


def _tensor(value: Any) -> dict[str, Any]:
    import torch

    plain = value.detach().cpu()
    told = {"dtype": str(plain.dtype), "shape": list(plain.shape)}
    if plain.layout is not torch.strided:
        return {**told, "parts": _tensor(plain.to_dense())}
    content = plain.contiguous().reshape(-1).view(torch.uint8).numpy() if plain.numel() else np.empty(0)
    return {**told, "content": _digest(content.tobytes())}


def _array(value: np.ndarray) -> dict[str, Any]:
    told = {"dtype": str(value.dtype), "shape": list(value.shape)}
    content = repr(value.tolist()).encode() if value.dtype.hasobject else np.ascontiguousarray(value).tobytes()
    return {**told, "content": _digest(content)}


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
