"""Prompts: templates as data, those that papers and projects print, and texts that cannot speak for a prompt."""

from .template import (
    Prompt,
    Sizer,
    Template,
    fill,
    first_words,
    fit,
    flatten,
    from_json,
    level,
    named,
    to_json,
)

__all__ = [
    "Prompt",
    "Sizer",
    "Template",
    "fill",
    "first_words",
    "fit",
    "flatten",
    "from_json",
    "level",
    "named",
    "to_json",
]
