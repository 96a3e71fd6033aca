"""What of a module is kept with a checkpoint of its training: what trains, once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn


def keep_what_trains(module: nn.Module) -> nn.Module:
    """``module``, its state from now on without frozen parameters, and with tied ones under their first name alone.

    A frozen base need not be written with every checkpoint, and safetensors writes no tensor twice. Loading such a
    state leaves frozen parameters as they are.
    """
    module.register_state_dict_post_hook(_leave_out)
    module.register_load_state_dict_post_hook(_do_not_miss)
    return module


def _left_out(module: nn.Module) -> set[str]:
    kept = {name for name, parameter in module.named_parameters() if parameter.requires_grad}
    return {name for name, _ in module.named_parameters(remove_duplicate=False)} - kept


def _leave_out(module: nn.Module, state: dict[str, Any], prefix: str, _: Any) -> None:
    for name in _left_out(module):
        state.pop(prefix + name, None)


def _do_not_miss(module: nn.Module, keys: Any) -> None:
    """Missing keys carry the prefix of ``module``, which it does not know."""
    left_out = _left_out(module)
    endings = tuple(f".{name}" for name in left_out)
    keys.missing_keys[:] = [name for name in keys.missing_keys if name not in left_out and not name.endswith(endings)]
