"""Transformers exported to ONNX or OpenVINO, whose runtimes serve them on CPUs; and how they are run where torch was.

The files lie where sentence-transformers' own backends look for them. These need optimum, which does not go with
transformers 5 yet; torch exports the model itself here, and the runtimes are used as they are.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn

FORMATS = ("onnx", "openvino")
#: Packages that write a format, and those that read it.
_WRITES = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "openvino": ("openvino",)}
_READS = {"onnx": ("onnxruntime",), "openvino": ("openvino",)}
_FILES = {"onnx": "onnx/model{}.onnx", "openvino": "openvino/openvino_model{}.xml"}
_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
#: How far an exported model may be from torch's, as a share of its largest number.
_CLOSE = 1e-3

Features = Mapping[str, Any]


def check_packages(format: str, quantize: str | None = None, *, writes: bool = True) -> None:
    """Check that what a format needs is installed.

    Raises:
        ValueError: for an unknown format or quantization.
        ModuleNotFoundError: naming what is missing, and how to install it.
    """
    if format not in FORMATS:
        raise ValueError(f"format must be {' or '.join(map(repr, FORMATS))}, not {format!r}.")
    if quantize not in (None, "int8"):
        raise ValueError(f"quantize must be None or 'int8', not {quantize!r}.")
    needed = (_WRITES if writes else _READS)[format] + (("nncf",) if (format, quantize) == ("openvino", "int8") else ())
    missing = [name for name in needed if find_spec(name) is None]
    if missing:
        raise ModuleNotFoundError(
            f"the format {format!r} needs {', '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not"
            f' installed: pip install "pyterrier-distill[{format}]".',
            name=missing[0],
        )


class _Positional(nn.Module):
    """A transformer that takes its inputs in the order of their names, and gives its first output alone."""

    def __init__(self, model: nn.Module, names: Sequence[str]):
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return self.model(**dict(zip(self.names, inputs, strict=True)), return_dict=True)[0]


def export(
    model: nn.Module, batches: Sequence[Features], format: str, directory: Path, quantize: str | None
) -> dict[str, Any]:
    """Write a transformer in the format of a runtime.

    Args:
        model: a transformers model, in float32 on a CPU.
        batches: tokenised real inputs ``[n, L]`` of several lengths, some padded: the exported model is compared with
            torch's on the first of them, and OpenVINO takes from all of them what numbers its layers meet.
        format: ``"onnx"`` or ``"openvino"``.
        directory: of the checkpoint; the files go into a folder of the format's name.
        quantize: ``"int8"``, or None.

    Returns:
        What :func:`served` needs: ``format``, ``file``, ``inputs``, ``output``, ``quantize``.

    Raises:
        ValueError: if the model cannot be exported, or what was exported computes something else.
    """
    names = [name for name in _INPUTS if name in batches[0]]
    file = directory / _FILES[format].format("")
    file.parent.mkdir(parents=True)
    told = {
        "format": format, "file": file.relative_to(directory).as_posix(), "inputs": names,
        "output": "logits" if _classifies(model) else "last_hidden_state",
        "quantize": None,
    }  # fmt: skip
    whole = _Positional(model, names).eval()
    inputs = tuple(batches[0][name] for name in names)
    try:
        with torch.no_grad():
            dims = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
            program = torch.export.export(whole, inputs, dynamic_shapes={"inputs": (dims,) * len(names)}, strict=False)
            _write(program, inputs, names, told, format, file)
    except Exception as error:
        raise ValueError(f"this {type(model).__name__} cannot be exported to {format}: {error}") from error
    exported = served({**told, "directory": directory})
    for batch in batches[:4]:
        with torch.no_grad():
            known = whole(*(batch[name] for name in names))
        found = exported(**batch)[0]
        real = batch["attention_mask"].bool() if known.dim() == 3 else slice(None)
        apart = float((known[real] - found[real]).abs().max() / known[real].abs().max())
        if not apart < _CLOSE:
            raise ValueError(
                f"this {type(model).__name__} computes something else when exported to {format}: {apart:.2g} of its"
                " largest number apart. It can be served by torch alone."
            )
    if quantize is not None:
        small = directory / _FILES[format].format("_qint8")
        (_quantized_onnx if format == "onnx" else _quantized_openvino)(file, small, batches, names)
        for path in (file, file.with_suffix(".bin"), Path(f"{file}.data")):
            path.unlink(missing_ok=True)
        told |= {"file": small.relative_to(directory).as_posix(), "quantize": quantize}
    return told


def _classifies(model: nn.Module) -> bool:
    return type(model).__name__.endswith("ForSequenceClassification")


def _write(program: Any, inputs: Any, names: Sequence[str], told: Mapping[str, Any], format: str, file: Path) -> None:
    if format == "onnx":
        torch.onnx.export(
            program, inputs, str(file), input_names=list(names), output_names=[told["output"]], external_data=False,
            verbose=False,
        )  # fmt: skip
        return
    import openvino

    converted = openvino.convert_model(program)
    for port, name in zip(converted.inputs, names, strict=True):
        port.get_tensor().set_names({name})
    converted.outputs[0].get_tensor().set_names({told["output"]})
    openvino.save_model(converted, str(file), compress_to_fp16=False)


def _quantized_onnx(whole: Path, small: Path, batches: Iterable[Features], names: Sequence[str]) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(str(whole), str(small), weight_type=QuantType.QInt8, per_channel=True)


def _quantized_openvino(whole: Path, small: Path, batches: Iterable[Features], names: Sequence[str]) -> None:
    import nncf
    import openvino

    met = nncf.Dataset([{name: batch[name].numpy() for name in names} for batch in batches])
    model = openvino.Core().read_model(str(whole))
    openvino.save_model(nncf.quantize(model, met, model_type=nncf.ModelType.TRANSFORMER), str(small))


def served(told: Mapping[str, Any], threads: int | None = None) -> Callable[..., Any]:
    """A function that computes what the transformer's ``forward`` did.

    Args:
        told: what :func:`export` gave, and the ``directory`` of the checkpoint.
        threads: of the runtime; None = torch's number.

    Raises:
        ModuleNotFoundError: if the runtime is not installed.
        FileNotFoundError: if the exported file is not there.
    """
    check_packages(told["format"], writes=False)
    file = Path(told["directory"]) / told["file"]
    if not file.is_file():
        raise FileNotFoundError(f"{file} is not there: export the student again.")
    return _Served(told, file, threads)


class _Served:
    """What :func:`served` gives; another process, or a copy, opens the file again."""

    def __init__(self, told: Mapping[str, Any], file: Path, threads: int | None):
        self._given = (dict(told), file, threads)
        self._run = (_by_onnx if told["format"] == "onnx" else _by_openvino)(file, threads or torch.get_num_threads())

    def __reduce__(self) -> Any:
        return type(self), self._given

    def __call__(self, **features: Any) -> Any:
        from transformers.modeling_outputs import BaseModelOutput, SequenceClassifierOutput

        told = self._given[0]
        given = {name: features[name].numpy(force=True) for name in told["inputs"]}
        found = torch.from_numpy(self._run(given))
        logits = told["output"] == "logits"
        return SequenceClassifierOutput(logits=found) if logits else BaseModelOutput(last_hidden_state=found)


def serve(module: nn.Module) -> bool:
    """Whether a runtime computes a part of ``module``."""
    return any(isinstance(vars(part).get("forward"), _Served) for part in module.modules())


def _by_onnx(file: Path, threads: int) -> Callable[[dict[str, Any]], Any]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    return lambda given: session.run(None, given)[0]


def _by_openvino(file: Path, threads: int) -> Callable[[dict[str, Any]], Any]:
    import openvino

    how = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(str(file), "CPU", how)
    lock = threading.Lock()  # a request is one thread's at a time

    def run(given: dict[str, Any]) -> Any:
        with lock:
            return compiled(given)[0].copy()

    return run
