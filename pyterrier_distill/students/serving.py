"""Students that a runtime serves: exported to ONNX or OpenVINO, and used again as they were."""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..engine import batching, runtimes
from .artifact import StudentArtifact

#: What an export is tried on if nothing is said: texts of several lengths.
_TEXTS = tuple("how are neural rankers distilled from large ones " * n for n in (1, 2, 5, 20))
#: Fewest texts from which OpenVINO takes the range of numbers, and how many go into one of its calls.
_FEWEST, _CALL = 50, 8


class Servable(StudentArtifact):
    """The part of a student that exports it, and lets a runtime compute what its transformer did.

    Subclasses say which module that is (:meth:`_reader`), and how texts are read for it (:meth:`_read`).
    """

    @property
    def served(self) -> dict[str, Any] | None:
        """What was exported, and how: ``format``, ``file``, ``quantize``; None for a student that torch runs."""
        return self._metadata().get("runtime") if self._is_directory() else None

    def export(
        self,
        format: str,
        path: str | os.PathLike,
        *,
        quantize: str | None = None,
        texts: Sequence[Any] | None = None,
        overwrite: bool = False,
    ) -> Any:
        """Save for serving on CPUs: as :meth:`save` does, and the transformer in the format of a runtime beside it.

        What encodes queries is exported, and documents too if the same encoder does; of an asymmetric student,
        documents are encoded by torch as before. The runtime computes in float32, or in int8; ``precision`` is torch's.

        Args:
            format: ``"onnx"`` or ``"openvino"``.
            path: as for :meth:`save`.
            quantize: ``"int8"``: weights of one byte, and products in whole numbers. Scores change: compare the student
                with this one before it is served. None = as they are.
            texts: what it will read, queries of a bi-encoder, (query, document) pairs of a cross-encoder. The export
                is compared with torch on some; OpenVINO's int8 needs at least 50, better 300, to see what numbers its
                layers meet.
            overwrite: as for :meth:`save`.

        Returns:
            The student loaded from ``path``, which the runtime serves; it ranks, and cannot be trained.

        Raises:
            ModuleNotFoundError: if the packages of a format are not installed, saying how to install them.
            ValueError: for another format; for too few texts; if the model cannot be exported, or computes something
                else then.

        Example::

            served = student.export("onnx", "student.onnx", quantize="int8")
            candidates = bm25 % 100 >> text
            pt.Experiment([candidates >> student, candidates >> served], topics, qrels, ["nDCG@10", "mrt"])
        """
        import torch

        runtimes.check_packages(format, quantize)
        told = list(texts or ())
        if texts is not None and not told:
            raise ValueError("texts is empty: give some of those that the student will read, or leave it out.")
        if (format, quantize) == ("openvino", "int8") and (texts is None or len(told) < _FEWEST):
            raise ValueError(
                f"quantize='int8' with OpenVINO needs texts=, at least {_FEWEST} of those that it will read, such as"
                " queries of the collection: from them it takes the range of numbers in each layer."
            )
        reader = self._reader(self.model)
        if self._weights.adapter is not None:
            raise ValueError("this student is an adapter: save it with merge=True, and export what that gives.")
        if self.served is not None:
            raise ValueError(f"{self.name_or_path} is exported already: export the student that it was made of.")
        if reader is None:
            raise ValueError(f"{type(self).__name__} cannot be exported: its queries are not read by a transformer.")

        def write(draft: Path) -> dict[str, Any]:
            model = copy.deepcopy(reader.auto_model).to("cpu", torch.float32)
            batches = [self._read(told[start : start + _CALL]) for start in range(0, len(told), _CALL)]
            batches.insert(0, self._read(self._examples()))
            return {"runtime": runtimes.export(model, batches, format, draft, quantize)}

        found = self.save(path, overwrite=overwrite, _also=write)
        found.device = "cpu"
        return found

    def _write_all(self, draft: Path, *given: Any, **more: Any) -> dict[str, Any]:
        if self.served is not None:
            raise ValueError(
                f"{self.name_or_path} was exported for serving: save or publish the student that it was made of, or"
                " copy the directory."
            )
        return super()._write_all(draft, *given, **more)

    def _serve(self, model: Any) -> None:
        """Let the runtime compute what the transformer of a model that was loaded did, if it was exported."""
        if self.served is None:
            return
        if getattr(self, "layers", None) is not None or getattr(self, "lora", None) is not None:
            raise ValueError(
                f"{self.name_or_path} was exported whole: layers= and lora= are for the student that it was made of."
            )
        if batching.infer_device(self.device).type != "cpu":
            raise ValueError(f"{self.name_or_path} was exported for CPUs: load it with device='cpu'.")
        told = {**self.served, "directory": self.name_or_path}
        self._reader(model).auto_model.forward = runtimes.served(told)

    def _reader(self, model: Any) -> Any:
        """The sentence-transformers module whose transformer reads queries, or pairs; None if there is none."""
        raise TypeError(f"{type(self).__name__} does not say what reads queries.")

    def _read(self, texts: Sequence[Any]) -> dict[str, Any]:
        """Texts as that module reads them."""
        raise TypeError(f"{type(self).__name__} does not say how it reads texts.")

    def _examples(self) -> list[Any]:
        """Texts on which an export is tried if none are given."""
        return list(_TEXTS)
