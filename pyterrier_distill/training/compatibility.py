"""Which settings decide what comes out of a training: with others than those it began with, it does not go on."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from typing import Any

from ..stores import redaction

#: Arguments of ``transformers.TrainingArguments`` that decide nothing, by the reason why.
IDLE_ARGS = {
    "what is reported, where, and how often": """logging_dir logging_strategy logging_first_step logging_steps
    logging_nan_inf_filter report_to run_name project trackio_space_id trackio_bucket_id trackio_static_space_id
    disable_tqdm log_level log_level_replica log_on_each_node skip_memory_metrics include_num_input_tokens_seen
    include_tokens_per_second debug""",
    "what is written to disk, and how often": """save_strategy save_steps save_total_limit save_safetensors
    save_on_each_node save_only_model overwrite_output_dir enable_jit_checkpoint ignore_data_skip_warning
    resume_from_checkpoint""",
    "what is published": """push_to_hub hub_model_id hub_strategy hub_token hub_private_repo hub_always_push
    hub_revision push_to_hub_model_id push_to_hub_organization push_to_hub_token""",
    "how batches reach the model": """dataloader_num_workers dataloader_pin_memory dataloader_persistent_workers
    dataloader_prefetch_factor""",
    "memory and speed alone": """gradient_checkpointing gradient_checkpointing_kwargs torch_empty_cache_steps
    eval_accumulation_steps per_device_eval_batch_size per_gpu_eval_batch_size eval_use_gather_object""",
    "on which device, and how processes find each other": """use_cpu no_cuda use_mps_device local_rank ddp_backend
    ddp_timeout ddp_find_unused_parameters ddp_bucket_cap_mb ddp_broadcast_buffers""",
    "what only scripts read": "do_train do_eval do_predict prediction_loss_only past_index",
}
_IDLE_ARGS = frozenset(name for names in IDLE_ARGS.values() for name in names.split())
#: What decides only which checkpoint is kept as the best.
_OF_VALIDATION = ("metric", "eval_every", "early_stopping")
#: How a student was called and run when its repr alone was written down; its weights are compared by themselves.
_RUN = re.compile(r", (?:batch_size=\d+|device=(?:'[^']*'|None)|verbose=\w+)")
_NAMED = re.compile(r"(?<=[A-Za-z]\()(?:'[^']*'|\"[^\"]*\")")


def changed(earlier: Mapping[str, Any], settings: Mapping[str, Any], *, validated: bool = True) -> str | None:
    """The first setting that decides the outcome and is not what it was, with both values; None if there is none.

    Args:
        earlier: as ``training.json`` holds them, also one of an earlier version.
        settings: as :func:`described` gives them.
        validated: whether there is a validation frame, by which a checkpoint is chosen.
    """
    from ..identity.comparison import difference

    both = "described" in earlier and "described" in settings
    for name, value in settings.items():
        before = earlier.get(name)
        if name in ("student", "described") and both:
            if name == "student" and (told := difference(earlier["described"], settings["described"])) is not None:
                return f"the student's {told}"
            continue
        if name in ("described", "computed") or (name in _OF_VALIDATION and not validated):
            continue
        if name == "epochs" and settings.get("steps") not in (None, "None"):  # steps replace them
            continue
        if name == "sampler":
            one, other = (str(text).replace("ListSampler(size=", "ListSampler(n=") for text in (before, value))
        elif name == "student":
            one, other = (_NAMED.sub("...", _RUN.sub("", str(text))) for text in (before, value))
        elif name == "args":
            one, other = _deciding(before), _deciding(value)
        elif name == "precision":
            one, other = (_resolved(text, settings) for text in (before, value))
        else:
            one, other = _plain(before), _plain(value)
        if one != other:
            return f"{name} was {before} and is now {value}"
    return None


def _deciding(args: Any) -> Any:
    """The arguments that decide something; a text that cannot be read as it is."""
    args = _plain(args)
    if args is None:
        return {}
    if not isinstance(args, dict):
        return args
    return {name: value for name, value in redaction.redacted(args).items() if name not in _IDLE_ARGS}


def _resolved(text: Any, settings: Mapping[str, Any]) -> Any:
    value = _plain(text)
    return settings.get("computed", value) if value == "auto" else value


def _plain(text: Any) -> Any:
    """What a repr of plain data is of, else the text: 1 and 1.0 are one, and so are a measure and its name."""
    try:
        return ast.literal_eval(text) if isinstance(text, str) else text
    except (ValueError, SyntaxError):
        return text
