"""Tables in the papers' layout: the best of a row bold, the second underlined, † where a difference is significant."""

from __future__ import annotations

import html as escaping
import re
from collections.abc import Sequence

import numpy as np
import pandas as pd

_LATEX = str.maketrans(
    {c: f"\\{c}" for c in "&%$#_{}"}
    | {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}"}
    | {"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", "[": "{[}", "*": "{*}"}
)
_MARKDOWN = str.maketrans({c: f"\\{c}" for c in "\\`*_[]|"})


def places(row: pd.Series, digits: int = 4) -> list[int]:
    """0 for the best of a row, 1 for the second, 2 for others; equal when printed is equal, and NaN is none."""
    values = row.to_numpy(dtype=float).round(digits)
    distinct = sorted({value for value in values if not np.isnan(value)}, reverse=True)[:2]
    return [distinct.index(value) if value in distinct else 2 for value in values]


def _cells(table: pd.DataFrame, marks: pd.DataFrame, bold: str, second: str, mark: str) -> list[list[str]]:
    rows = []
    for name, row in table.iterrows():
        cells = []
        for system, value, place in zip(table.columns, row, places(row), strict=True):
            text = "–" if np.isnan(value) else f"{value:.4f}"
            text = (bold, second, "{}")[place].format(text) if not np.isnan(value) else text
            cells.append(text + (mark if bool(marks.loc[name, system]) else ""))
        rows.append(cells)
    return rows


def markdown(table: pd.DataFrame, marks: pd.DataFrame, notes: Sequence[str]) -> str:
    """Markdown, its corner the name of the table's index."""
    head = [_plain(name) for name in (table.index.name or "", *table.columns)]
    cells = _cells(table, marks, "**{}**", "<u>{}</u>", "†")
    lines = [head, *([_plain(name), *row] for name, row in zip(table.index, cells, strict=True))]
    lines.insert(1, ["---"] + ["---:"] * len(table.columns))
    told = "".join(f"\n\n{_plain(note)}" for note in notes)
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + told + "\n"


def _plain(text: object) -> str:
    """A text that Markdown shows as it is, tags and entities of HTML included."""
    shown = re.sub(r"&(?=#?\w+;)", "&amp;", str(text).translate(_MARKDOWN))
    return re.sub(r"<(?=[A-Za-z/!?])", "&lt;", shown)


def latex(table: pd.DataFrame, marks: pd.DataFrame, notes: Sequence[str]) -> str:
    """A tabular for booktabs; notes as comments."""
    rows = _cells(table, marks, r"\textbf{{{}}}", r"\underline{{{}}}", r"$^\dagger$")
    head = [table.index.name or "", *table.columns]
    lines = [f"% {' '.join(note.split())}" for note in notes]
    lines += [rf"\begin{{tabular}}{{l{'r' * len(table.columns)}}}", r"\toprule"]
    lines += [" & ".join(str(name).translate(_LATEX) for name in head) + r" \\", r"\midrule"]
    lines += [
        " & ".join([str(name).translate(_LATEX), *(cell.replace("–", "--") for cell in cells)]) + r" \\"
        for name, cells in zip(table.index, rows, strict=True)
    ]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def html(table: pd.DataFrame, marks: pd.DataFrame, notes: Sequence[str]) -> str:
    """A table and its notes."""
    rows = _cells(table, marks, "<b>{}</b>", "<u>{}</u>", "<sup>†</sup>")
    head = "".join(f"<th>{escaping.escape(str(name))}</th>" for name in (table.index.name or "", *table.columns))
    body = "".join(
        f"<tr><th>{escaping.escape(str(name))}</th>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"
        for name, cells in zip(table.index, rows, strict=True)
    )
    told = "".join(f"<p>{escaping.escape(note)}</p>" for note in notes)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{told}"
