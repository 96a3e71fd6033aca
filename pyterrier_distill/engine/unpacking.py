"""A GGUF file made an ordinary checkpoint."""

from __future__ import annotations

import os

from . import checkpoints, gguf, pretrained

__all__ = ["unpack_gguf"]


def unpack_gguf(
    file: str | os.PathLike, directory: str | os.PathLike, *, precision: str = "fp32", overwrite: bool = False
) -> str:
    """Make a GGUF file an ordinary checkpoint, which students, vLLM, transformers and peft read.

    Args:
        file: a GGUF file.
        directory: where the checkpoint goes: a path where nothing is, or an earlier checkpoint of this function.
        precision: of the weights: ``fp32`` keeps what the file says exactly; ``bf16`` and ``fp16`` take half of that.
        overwrite: whether an earlier checkpoint may be replaced.

    Returns:
        The directory.

    Raises:
        FileNotFoundError: if there is no such file.
        FileExistsError: if something stands at ``directory``.
        ModuleNotFoundError: if gguf is not there.
        ValueError: if the file is damaged, or of an architecture that transformers cannot read from GGUF.

    Example::

        student = ptd.CrossEncoder(ptd.unpack_gguf("qwen3-0.6b.gguf", "qwen3-0.6b"), lora={"r": 16})
    """
    import torch

    kinds = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    if precision not in kinds:
        raise ValueError(f"precision must be one of {', '.join(kinds)}, not {precision!r}.")
    path = gguf.check_path(os.path.expanduser(os.fspath(file)))
    checkpoints.check_free(directory, "config.json", overwrite=overwrite)
    kind = pretrained.kind_of(path, {})
    loaded = pretrained.load(path, kind, {}, "fp32", torch.device("cpu"), dtype=kinds[precision])
    with checkpoints.written_whole(directory, "config.json", overwrite=overwrite) as draft:
        with checkpoints.quiet():
            loaded.model.save_pretrained(draft)
        loaded.tokenizer.save_pretrained(draft)
    return os.fspath(directory)
