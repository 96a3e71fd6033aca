"""The command ``pyterrier-distill``."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from ._version import __version__
from .commands import MISTAKES, ended


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: None = those of the process.

    Returns:
        0 when all went well, 2 after a mistake of the user's, which is reported in one line.
    """
    parser = argparse.ArgumentParser(prog="pyterrier-distill", description="Distil neural rankers in PyTerrier.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True)
    demo = commands.add_parser(
        "demo", help="distil a dense retriever from documents alone and compare it with its teacher and BM25"
    )
    demo.add_argument("--dataset", default="pydocs", help="pydocs (default), irds:ID or folder:PATH")
    demo.add_argument("--layers", type=_layers, default=2, help="layers of the student: how many, or which: 0,5")
    demo.add_argument("--queries", type=int, help="spans of documents to train on (default: 15,000)")
    demo.add_argument("--minutes", type=float, help="minutes of labelling and training, instead of --queries")
    demo.add_argument("--out", default="distill-demo", help="directory of the results")
    demo.add_argument("--seed", type=int, default=42)
    demo.add_argument("--teacher", help="a sentence-transformers checkpoint (default: all-MiniLM-L6-v2)")
    demo.add_argument("--max-length", type=int, help="tokens of a document that the teacher reads")
    demo.set_defaults(run=_demo)
    evaluate = commands.add_parser("evaluate", help="compare saved students with BM25 over collections")
    evaluate.add_argument("--student", action="append", default=[], metavar="DIR", help="a saved student; repeatable")
    evaluate.add_argument("--suite", default="local", help="local (default), beir, nanobeir, trecdl, lotte or tirex")
    evaluate.add_argument("--data", nargs="+", default=[], help="irds:ID or folder:PATH; of a suite: names of it")
    evaluate.add_argument("--teacher", help="a sentence-transformers checkpoint that is compared, too")
    evaluate.add_argument("--baseline", default="BM25", help="what others are tested against ('' = none)")
    evaluate.add_argument("--measures", nargs="+", help="of ir_measures, such as nDCG@10 RR@10")
    evaluate.add_argument("--depth", type=int, default=100, help="of what re-rankers re-rank")
    evaluate.add_argument("--out", default="evaluation", help="directory of runs, tables and plots")
    evaluate.set_defaults(run=_evaluate)
    submit = commands.add_parser("submit", help="pack a student for TIREx, try it, and hand it to tira-cli")
    submit.add_argument("--student", required=True, metavar="DIR", help="a saved student")
    submit.add_argument("--dataset", required=True, help="TIRA's name of the dataset")
    submit.add_argument("--team", required=True, help="TIRA's name of the team")
    submit.add_argument("--data", metavar="DIR", help="a collection in TIRA's layout to try it on")
    submit.add_argument("--name", help="of the system (default: the student's directory)")
    submit.add_argument("--description", help="of the system")
    submit.add_argument("--repository", help="where its source is")
    submit.add_argument("--out", default="tirex-submission", help="directory of the folder and the run")
    submit.add_argument("--overwrite", action="store_true", help="replace what was written there before")
    submit.add_argument("--dry-run", action="store_true", help="print tira-cli's call instead of making it")
    submit.set_defaults(run=_submit)
    recipe = commands.add_parser("recipe", help="run a whole experiment: train its students, measure them, test claims")
    names = "pairdistill, rank_distillm, ustad, distill_vs_contrastive, inranker or beyond"
    recipe.add_argument("name", help=names)
    recipe.add_argument("--scale", default="small", help="small (two cores, default), medium (one GPU) or paper")
    collections = "irds:ID or folder:PATH to measure on; with a role, such as train=irds:ID, to learn from"
    recipe.add_argument("--data", nargs="+", default=[], help=collections)
    recipe.add_argument("--seeds", nargs="+", type=int, help="of the trainings (default: the scale's)")
    recipe.add_argument("--out", default="recipe", help="directory of tables, claims, pictures and students")
    recipe.set_defaults(run=_recipe)
    options = vars(parser.parse_args(arguments))
    options.pop("command")
    run = options.pop("run")
    again = "stopped; the same command goes on from here."
    return ended("pyterrier-distill", lambda: run(options), mistakes=MISTAKES, stopped=again)


def _demo(options: dict[str, Any]) -> None:
    _check(options)
    from .demo.distil import demo

    demo(options.pop("dataset"), **options)


def _evaluate(options: dict[str, Any]) -> None:
    if not options["student"] and options["teacher"] is None:
        raise ValueError("name a student: --student DIR, as often as there are some.")
    from .suites.evaluation import evaluate

    options["baseline"] = options["baseline"] or None
    found = evaluate(options.pop("student"), options.pop("out"), **options)
    print(found)
    print(found.cost_table().to_string(float_format="{:.1f}".format))


def _submit(options: dict[str, Any]) -> None:
    from .tirex.run import Submission
    from .tirex.submission import submit

    how = {name: options.pop(name) for name in ("out", "data", "dry_run", "overwrite")}
    print("\n".join(submit(Submission(**options), **how)))


def _recipe(options: dict[str, Any]) -> None:
    from .recipes import run

    run(options.pop("name"), **options)


def _layers(text: str) -> int | list[int]:
    try:
        told = [int(part) for part in text.split(",") if part] if "," in text else int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number nor a list such as 0,5") from None
    return told


def _check(options: Mapping[str, Any]) -> None:
    """What can be said of the options before anything is imported that takes seconds.

    Raises:
        ValueError: naming the first that is impossible.
    """
    dataset, layers = options["dataset"], options["layers"]
    kind, _, rest = dataset.partition(":")
    if dataset != "pydocs" and not (kind in ("pydocs", "irds", "folder") and rest):
        raise ValueError(f"no dataset {dataset!r}: give pydocs, folder:PATH, or irds:ID of ir_datasets.")
    if not options["out"].strip():
        raise ValueError("out must name a directory for the results; '.' is the working directory.")
    if options["queries"] is not None and options["queries"] < 1:
        raise ValueError(f"queries must be a whole number of at least 1, not {options['queries']}.")
    if options["minutes"] is not None and not 0 < options["minutes"] < math.inf:
        raise ValueError(f"minutes must be positive, not {options['minutes']}.")
    if options["max_length"] is not None and options["max_length"] < 1:
        raise ValueError(f"max_length must be a whole number of at least 1, not {options['max_length']}.")
    if not 0 <= options["seed"] < 2**32:
        raise ValueError(f"seed must be a whole number from 0 to {2**32 - 1}, not {options['seed']}.")
    listed = layers if isinstance(layers, list) else [layers - 1]
    if not listed or min(listed) < 0 or len(set(listed)) < len(listed):
        raise ValueError(f"layers={layers} is impossible: at least 1, or a list from 0 on, each to be kept once.")


if __name__ == "__main__":
    sys.exit(main())
