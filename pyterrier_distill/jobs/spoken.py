"""What a command line says of losses, teachers and students, read without running any of it."""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from .. import losses
from ..frames.arguments import meant
from ..losses import Loss

T = TypeVar("T")


def loss(text: str) -> Loss:
    """A loss as it prints itself: ``InfoNCE(temperature=0.05) + 3.0 * KLDivergence()``.

    Args:
        text: names of losses, their settings as literals, ``+`` and ``*``.

    Raises:
        ValueError: for anything else, naming it.
    """
    try:
        tree = ast.parse(text, mode="eval").body
    except SyntaxError as error:
        raise ValueError(
            f"the loss {text!r} cannot be read ({error.msg}): write InfoNCE() + 3.0 * KLDivergence()."
        ) from None
    found = _value(tree, text)
    if not isinstance(found, Loss):
        raise ValueError(f"{text!r} is no loss: write a name with brackets, such as RankNet().")
    return found


def _value(node: ast.AST, text: str) -> Any:
    if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
        return node.value
    if isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Add, ast.Mult)):
        left, right = _value(node.left, text), _value(node.right, text)
        return left + right if isinstance(node.op, ast.Add) else left * right
    if isinstance(node, ast.Name):
        raise ValueError(f"{node.id} in {text!r} lacks its brackets: {node.id}().")
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        known = [name for name in losses.__all__ if name != "Outputs"]
        if node.func.id not in known:
            near = meant(node.func.id, known)
            advice = f"did you mean {near}?" if near else f"there are {', '.join(known)}."
            raise ValueError(f"no loss {node.func.id!r}: {advice}")
        settings = {word.arg: ast.literal_eval(word.value) for word in node.keywords if word.arg}
        given = [ast.literal_eval(value) for value in node.args]
        return made(node.func.id, getattr(losses, node.func.id), given, settings)
    raise ValueError(f"{ast.unparse(node)!r} in {text!r} is no part of a loss: write names, settings, + and *.")


def called(text: str, kinds: Mapping[str, Callable[..., T]], what: str) -> T:
    """A thing by its kind, its model and settings: ``pointwise:castorini/monot5-3b-msmarco,max_length=256``.

    Args:
        text: kind, colon, a name or a path, and settings of the class behind commas, as literals or bare words.
        kinds: kind → class or function; its first argument is the name.
        what: it is, for messages.

    Raises:
        ValueError: for an unknown kind, an absent name, or settings that the class does not have.
    """
    kind, colon, rest = text.partition(":")
    if kind not in kinds or not colon:
        near = meant(kind, kinds)
        advice = f" (did you mean {near}:?)" if near and near != kind else ""
        raise ValueError(f"{what} {text!r} must be KIND:NAME, with a kind among {', '.join(kinds)}{advice}.")
    name, *settings = _parts(rest)
    if not name:
        raise ValueError(f"{what} {text!r} names no model: {kind}:NAME.")
    told = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise ValueError(f"{what} {text!r}: {setting!r} must be name=value.")
        told[key.strip()] = literal(value.strip())
    return made(f"{kind}:{name}", kinds[kind], [name], told)


def _parts(text: str) -> list[str]:
    """What commas separate, those inside brackets aside."""
    parts, depth = [""], 0
    for sign in text:
        depth += (sign in "([{") - (sign in ")]}")
        if sign == "," and not depth:
            parts.append("")
        else:
            parts[-1] += sign
    return parts


def literal(text: str) -> Any:
    """A number, list, dict, True, False or None; any other text as it stands."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def made(name: str, make: Callable[..., T], given: list[Any], settings: Mapping[str, Any]) -> T:
    """What ``make`` makes; settings that it does not have are the user's mistake."""
    try:
        return make(*given, **settings)
    except TypeError as error:
        raise ValueError(f"{name}: {error}") from error
