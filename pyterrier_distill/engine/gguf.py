"""GGUF files: whether one is whole, and how transformers reads it.

llama.cpp, Ollama and LM Studio keep a model in such a file: its configuration, its tokenizer and its weights, packed.
transformers unpacks the weights of the architectures that it knows.
"""

from __future__ import annotations

import copy
import functools
import math
import mmap
import os
import struct
from importlib.util import find_spec
from typing import Any, NamedTuple

MAGIC = b"GGUF"
_VERSIONS = (2, 3)
#: Kinds of values by number: bytes of those of one size; a text is 8, a list 9.
_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_TEXT, _LIST = 8, 9


def is_gguf(name: str) -> bool:
    """Whether ``name`` is a GGUF file that is here; Ollama's have no ending."""
    if not os.path.isfile(name):
        return False
    with open(name, "rb") as file:
        return file.read(4) == MAGIC


def check_path(path: str) -> str:
    """The absolute path of a GGUF file.

    Raises:
        FileNotFoundError: if there is no file.
        ValueError: if it is another kind of file.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"no GGUF file at {path!r}: give the path of one that is here.")
    if not is_gguf(path):
        raise ValueError(f"{path!r} is no GGUF file, or damaged: it does not begin with the letters GGUF.")
    return os.path.abspath(path)


def not_taken(path: str) -> ValueError:
    """What is said where an ordinary checkpoint is needed."""
    return ValueError(
        f"{path!r} is a GGUF file, which is read by teachers and HF(...), and not trained or saved with: make it an"
        f" ordinary checkpoint first, ptd.unpack_gguf({path!r}, directory), and give that directory."
    )


def source(name: str) -> tuple[str, dict[str, Any]]:
    """What transformers' ``from_pretrained`` is given for ``name``: a place, and arguments if it is a GGUF file."""
    if not is_gguf(name):
        return name, {}
    directory, file = os.path.split(os.path.abspath(name))
    return directory, {"gguf_file": file}


class Header(NamedTuple):
    """What stands at the beginning of a GGUF file.

    Attributes:
        architecture: as llama.cpp calls it; ``""`` where the file does not say.
        tensors: number of elements, kind of numbers, and first byte in the data, of each.
        data: where the data begin.
    """

    architecture: str
    tensors: list[tuple[int, int, int]]
    data: int


class _Reader:
    """Reads one thing after the other; running over the end is an ``EOFError``."""

    def __init__(self, content: Any):
        self.content = content
        self.at = 0

    def skip(self, size: int) -> int:
        """Where ``size`` bytes begin that are passed over."""
        start = self.at
        self.at += size
        if self.at > len(self.content):
            raise EOFError
        return start

    def numbers(self, form: str) -> tuple:
        """Numbers, as :mod:`struct` writes their kinds."""
        return struct.unpack_from(f"<{form}", self.content, self.skip(struct.calcsize(f"<{form}")))

    def text(self) -> bytes:
        """A text behind its length."""
        (size,) = self.numbers("Q")
        start = self.skip(size)
        return self.content[start : start + size]

    def value(self, kind: int) -> Any:
        """A text; numbers and lists are passed over."""
        if kind in _SIZES:
            return self.skip(_SIZES[kind])
        if kind == _TEXT:
            return self.text()
        if kind != _LIST:
            raise EOFError
        inner, count = self.numbers("IQ")
        if inner in _SIZES:
            return self.skip(_SIZES[inner] * count)
        for _ in range(count):
            self.value(inner)
        return None


def header(path: str) -> Header:
    """The header of a GGUF file; weights are not read.

    Raises:
        ValueError: if the file is damaged, or of a version that nobody here knows.
    """
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        reader = _Reader(content)
        try:
            magic, version, tensors, pairs = reader.numbers("4sIQQ")
            if magic != MAGIC:
                check_path(path)
            if version not in _VERSIONS:
                raise ValueError(f"{path!r} is a GGUF file of version {version}, not {_VERSIONS[0]} or {_VERSIONS[1]}.")
            architecture, alignment = "", 32
            for _ in range(pairs):
                key, (kind,) = reader.text(), reader.numbers("I")
                if key == b"general.alignment":
                    (alignment,) = reader.numbers("I")
                    continue
                value = reader.value(kind)
                if key == b"general.architecture" and isinstance(value, bytes):
                    architecture = value.decode(errors="replace")
            found = []
            for _ in range(tensors):
                reader.text()
                (dimensions,) = reader.numbers("I")
                elements = math.prod(reader.numbers(f"{dimensions}Q"))
                kind, start = reader.numbers("IQ")
                found.append((elements, kind, start))
            return Header(architecture, found, -(-reader.at // alignment) * alignment)
        except (EOFError, struct.error, OverflowError, MemoryError, ZeroDivisionError):
            raise ValueError(f"{path!r} is damaged: its header ends too soon. Copy the GGUF file again.") from None


def check(path: str) -> Header:
    """The header of a GGUF file that is whole, and can be unpacked here.

    Raises:
        ModuleNotFoundError: if the package that unpacks is not there.
        ValueError: if the file ends too soon, or is packed in a way that this package does not know.
    """
    if find_spec("gguf") is None:
        raise ModuleNotFoundError('GGUF files need gguf: pip install "pyterrier-distill[gguf]".')
    from gguf.constants import GGML_QUANT_SIZES

    told = header(path)
    sizes = {int(kind): size for kind, size in GGML_QUANT_SIZES.items()}
    unknown = sorted({kind for _, kind, _ in told.tensors} - set(sizes))
    if unknown:
        raise ValueError(f"{path!r} holds weights packed as kind {unknown[0]}, which gguf does not know: update gguf.")
    ends = [start + -(-elements // sizes[kind][0]) * sizes[kind][1] for elements, kind, start in told.tensors]
    needed, there = told.data + max(ends, default=0), os.path.getsize(path)
    if there < needed:
        raise ValueError(f"{path!r} is damaged: it has {there} of {needed} bytes. Copy the GGUF file again.")
    return told


def configuration(path: str) -> Any:
    """The configuration in a GGUF file, as transformers reads it; of each file once, which takes seconds.

    Raises:
        ModuleNotFoundError: if gguf is not there.
        ValueError: if the file is damaged, or of an architecture that transformers cannot read from GGUF.
    """
    told = check(path)
    state = os.stat(path)
    try:
        return copy.deepcopy(_configuration(path, state.st_size, state.st_mtime_ns))
    except ImportError:
        raise
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"{path!r} is a GGUF file of the architecture {told.architecture!r}, which transformers cannot read from"
            f" such files ({reason}): give an ordinary checkpoint of that model."
        ) from error


@functools.lru_cache(maxsize=8)
def _configuration(path: str, size: int, changed: int) -> Any:
    from transformers import AutoConfig

    directory, extra = source(path)
    return AutoConfig.from_pretrained(directory, **extra)


def plain_weights() -> dict[str, Any]:
    """What makes ``from_pretrained`` unpack all weights, where its version has a choice."""
    try:
        from transformers import GgufConfig
    except ImportError:
        return {}
    return {"quantization_config": GgufConfig(dequantize=True)}


def ordinary(model: Any) -> Any:
    """``model`` with unpacked weights as one that may be trained and saved: what says that they are packed is gone."""
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.hf_quantizer = None
    model.is_quantized = False
    return model
