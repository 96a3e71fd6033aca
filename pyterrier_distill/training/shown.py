"""What a training shows while it goes, and what it leaves to be read: one bar, one table, one row a logged step."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

import transformers

from ..engine import processes, progress

#: Figures of a training as a whole, which transformers logs as if they were a step.
_TOTALS = ("train_runtime", "train_samples_per_second", "train_steps_per_second", "total_flos", "train_loss")


def history(log: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A Trainer's log as one dict a logged step, in the order of steps; totals of the training are left out.

    Args:
        log: entries of ``step`` and what was logged, several of one step perhaps.
    """
    rows: dict[int, dict[str, Any]] = {}
    for entry in log:
        if "train_runtime" not in entry:
            rows.setdefault(entry["step"], {}).update(entry)
    return [rows[step] for step in sorted(rows)]


def totals(log: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The figures of a training as a whole that its log holds."""
    found: Mapping[str, Any] = next((entry for entry in reversed(log) if "train_runtime" in entry), {})
    return {name: found[name] for name in _TOTALS if name in found and name != "total_flos"}


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The history of a training as HTML: step, loss, and what was measured, under its own name."""
    columns = {"step": "step", "loss": "loss", **{name: name.removeprefix("eval_") for name in _measured(rows)}}
    columns["eval_loss"] = "validation loss"
    columns = {name: title for name, title in columns.items() if any(name in row for row in rows)}
    head = "".join(f"<th>{html.escape(title)}</th>" for title in columns.values())
    body = "".join(f"<tr>{''.join(f'<td>{_cell(row.get(name))}</td>' for name in columns)}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def settings(told: Mapping[str, str]) -> str:
    """How a training goes, as HTML that opens when clicked."""
    rows = "".join(f"<tr><th>{html.escape(n)}</th><td>{html.escape(v)}</td></tr>" for n, v in told.items())
    return f"<details><summary>settings</summary><table>{rows}</table></details>"


def curve(rows: Sequence[Mapping[str, Any]]) -> str:
    """The learning curve as HTML: a line for the loss and for each thing that was measured; nothing before training."""
    lines = [("loss", "loss"), *((n, n.removeprefix("eval_")) for n in _measured(rows))]
    drawn = [_line([(row["step"], row[name]) for row in rows if name in row], title) for name, title in lines]
    return "".join(drawn) + (f"<details><summary>history</summary>{table(rows)}</details>" if rows else "")


def _measured(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(n for row in rows for n in row if n.startswith("eval_") and n != "eval_seconds"))


def _line(points: Sequence[tuple[int, float]], title: str, width: int = 260, height: int = 70) -> str:
    if len(points) < 2:
        return ""
    steps, values = zip(*points, strict=True)
    low, high = min(values), max(values)
    places = [
        f"{width * (step - steps[0]) / max(1, steps[-1] - steps[0]):.0f},"
        f"{height * (high - value) / ((high - low) or 1):.0f}"
        for step, value in points
    ]  # fmt: skip
    line = f'<polyline points="{" ".join(places)}" fill="none" stroke="#4878a8" stroke-width="2"/>'
    told = f"{html.escape(title)}: {values[0]:.4f} at step {steps[0]:,} to {values[-1]:.4f} at step {steps[-1]:,}"
    drawn = f'<svg width="{width}" height="{height + 4}" viewBox="-2 -2 {width + 4} {height + 4}">{line}</svg>'
    return f'<div style="display:inline-block;margin-right:2em"><div>{told}</div>{drawn}</div>'


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:,}" if isinstance(value, int) else f"{float(value):.4f}"


class Progress(transformers.TrainerCallback):
    """PyTerrier's progress bar, with the last loss and the last evaluation; in Jupyter a table of them, too.

    Args:
        show: whether anything is shown.
    """

    def __init__(self, show: bool):
        self.show = show and processes.rank() == 0
        self.bar: Any = None
        self.table: Any = None
        self.last: dict[str, str] = {}

    def on_train_begin(self, args, state, control, **kwargs):
        self.bar = progress.bar(
            total=state.max_steps, initial=state.global_step, desc="Distilling", unit="step", verbose=self.show
        )

    def on_step_end(self, args, state, control, **kwargs):
        self.bar.update(1)

    def on_log(self, args, state, control, logs=None, **kwargs):
        for name, value in (logs or {}).items():
            if name == "loss" or (name.startswith("eval_") and name != "eval_seconds"):
                self.last[name.removeprefix("eval_")] = f"{float(value):.4f}"
        if self.bar is not None:
            self.bar.set_postfix(self.last)
        if self.show and progress.in_notebook():
            self._tabulate(history(state.log_history))

    def _tabulate(self, rows: list[dict[str, Any]]) -> None:
        from IPython.display import HTML, display

        if not rows:
            return
        if self.table is None:
            self.table = display(HTML(table(rows)), display_id=True)
        else:
            self.table.update(HTML(table(rows)))

    def on_train_end(self, args, state, control, **kwargs):
        self.close()

    def close(self) -> None:
        """Leave the bar as it stands; however the training ended."""
        if self.bar is not None:
            self.bar.close()
