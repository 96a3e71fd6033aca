"""The command ``pyterrier-distill``."""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ._version import __version__
from .commands import MISTAKES, ended

DESCRIPTION = """\
Distil neural rankers in PyTerrier.

  demo      see all of it work, on documents that every machine has
  label     ask teachers about the queries of a collection, and keep what they say
  train     train a student on kept labels
  evaluate  compare saved students with BM25 over collections
  submit    pack a student for TIREx
  recipe    run a paper's whole experiment

Exit status: 0 = success; 2 = usage or input error, in one line; 130 = interrupted, and the same command resumes;
1 = a bug. Every command takes --json: one object on standard output, everything else on standard error."""


#: What each recipe learns from, and may be given beside.
ROLES = {
    "pairdistill": "train=", "rank_distillm": "train= valid= [orders= other=]", "ustad": "train=",
    "distill_vs_contrastive": "train= [other= symmetric=]", "inranker": "train= domain=", "beyond": "none",
}  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: None = those of the process.

    Returns:
        0 when all went well, 2 after a mistake of the user's, which is reported in one line, 130 after Ctrl+C.
    """
    parser = _parser()
    given = sys.argv[1:] if arguments is None else list(arguments)
    if not given:
        parser.print_help(sys.stderr)
        return 2
    options = vars(parser.parse_args(given))
    options.pop("command")
    run = options.pop("run")
    as_json = options.pop("json")
    again = "stopped; the same command goes on from here."
    return ended("pyterrier-distill", lambda: _told(run, options, as_json), mistakes=MISTAKES, stopped=again)


def _told(run: Callable[[dict[str, Any]], Any], options: dict[str, Any], as_json: bool) -> None:
    """Run a command; with ``as_json`` its result alone is on standard output."""
    if not as_json:
        run(options)
        return
    with contextlib.redirect_stdout(sys.stderr):
        found = run(options)
    print(json.dumps(found, default=str))


def _parser() -> argparse.ArgumentParser:
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="pyterrier-distill", description=DESCRIPTION, formatter_class=layout)
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, run: Callable[[dict[str, Any]], Any], says: str, *examples: str) -> argparse.ArgumentParser:
        shown = "".join(f"\n  pyterrier-distill {name} {example}" for example in examples)
        one = commands.add_parser(
            name, help=says, description=f"{says[0].upper()}{says[1:]}.", epilog=f"examples:{shown}",
            formatter_class=layout,
        )  # fmt: skip
        one.add_argument("--json", action="store_true", help="print the result as one JSON object")
        one.set_defaults(run=run)
        return one

    demo = command(
        "demo", _demo, "distil a dense retriever from documents alone and compare it with its teacher and BM25",
        "", "--data irds:vaswani --minutes 10 --out vaswani",
    )  # fmt: skip
    demo.add_argument(
        "--data", "--dataset", dest="dataset", default="pydocs", help="pydocs (default), irds:ID or folder:PATH"
    )
    demo.add_argument("--layers", type=_layers, default=2, help="layers of the student: how many, or which: 0,5")
    demo.add_argument("--queries", type=int, help="spans of documents to train on (default: 15,000)")
    demo.add_argument(
        "--minutes", type=float, help="minutes of labelling and training, instead of --queries"
    )
    demo.add_argument("--out", default="distill-demo", help="directory of the results (default: distill-demo)")
    demo.add_argument("--seed", type=int, default=42, help="of spans and training (default: 42)")
    demo.add_argument("--teacher", help="a sentence-transformers checkpoint (default: all-MiniLM-L6-v2)")
    demo.add_argument(
        "--max-length", type=int, help="tokens of a document for the teacher (default: pydocs 128, else its own)"
    )

    label = command(
        "label", _label, "ask teachers about the queries of a collection, and keep what they say in a label store",
        "--data irds:beir/scifact/train --teacher pointwise:cross-encoder/ms-marco-MiniLM-L12-v2 --out labels",
        "--data folder:mine --teacher listwise:castorini/rank_zephyr_7b_v1_full,prompt=rankzephyr --out orders",
        "--data irds:msmarco-passage/train --teacher run:rankzephyr.run.gz --with-text --out orders",
    )  # fmt: skip
    label.add_argument("--data", required=True, help="the collection: irds:ID, folder:PATH or pydocs")
    kinds = "pointwise, pairwise, listwise, setwise, query_likelihood, vectors or run (a file)"
    label.add_argument(
        "--teacher", action="append", default=[], metavar="KIND:NAME[,setting=value]",
        help=f"kinds: {kinds}; repeat it for several, one behind the other",
    )  # fmt: skip
    label.add_argument("--out", required=True, help="directory of the label store")
    label.add_argument("--topics", metavar="FILE", help="lines of qid TAB query (default: the collection's)")
    label.add_argument("--candidates", metavar="RUN", help="a TREC run that says which documents (default: BM25)")
    label.add_argument("--index", metavar="DIR", help="of BM25's index (default: OUT-bm25)")
    label.add_argument("--depth", type=int, default=100, help="candidates per query (default: 100)")
    label.add_argument("--queries", type=int, help="at most so many queries (default: all)")
    label.add_argument("--batch-size", type=int, default=64, help="queries per commit (default: 64)")
    label.add_argument("--with-text", action="store_true", help="store texts, too: training then needs nothing else")

    train = command(
        "train", _train, "train a student on kept labels, and save it",
        "--labels labels --student cross-encoder:microsoft/MiniLM-L12-H384-uncased --loss 'RankNet()' --out student",
        "--labels labels --student 'bi-encoder:sentence-transformers/all-MiniLM-L6-v2,layers=[0,5]'"
        " --loss 'KLDivergence(temperature=0.05)' --data irds:vaswani --set steps=500 learning_rate=1e-4 --out small",
    )  # fmt: skip
    train.add_argument("--labels", nargs="+", required=True, metavar="DIR", help="label stores")
    train.add_argument(
        "--student", required=True, metavar="KIND:CHECKPOINT[,setting=value]",
        help="kinds: bi-encoder, cross-encoder, late-interaction, monot5, causal, ustad; or the directory of a saved"
        " student",
    )  # fmt: skip
    train.add_argument("--loss", required=True, help="such as 'InfoNCE(temperature=0.05) + 3.0 * KLDivergence()'")
    train.add_argument("--out", required=True, help="directory of the student; checkpoints go to OUT-training")
    train.add_argument("--data", help="the labels' collection, for texts that are not stored, and for judgements")
    train.add_argument("--validation", help="a collection on which the best checkpoint is chosen")
    train.add_argument("--index", metavar="DIR", help="of BM25's index of it (default: OUT-validation-bm25)")
    train.add_argument("--depth", type=int, default=100, help="candidates per query of it (default: 100)")
    train.add_argument(
        "--set", nargs="+", default=[], metavar="NAME=VALUE",
        help="settings of the Distiller, such as epochs=2 seed=1; all of them: help(pyterrier_distill.Distiller)",
    )
    train.add_argument("--overwrite", action="store_true", help="replace the student that is there")

    evaluate = command(
        "evaluate", _evaluate, "compare saved students with BM25 over collections",
        "--student my-student --data irds:vaswani irds:beir/scifact/test --baseline BM25",
    )  # fmt: skip
    evaluate.add_argument("--student", action="append", default=[], metavar="DIR", help="a saved student; repeatable")
    evaluate.add_argument("--suite", default="local", help="local (default), beir, nanobeir, trecdl, lotte or tirex")
    evaluate.add_argument("--data", nargs="+", default=[], help="irds:ID or folder:PATH; of a suite: names of it")
    evaluate.add_argument("--teacher", help="a sentence-transformers checkpoint that is compared, too")
    evaluate.add_argument("--baseline", default="BM25", help="what others are tested against ('' = none)")
    evaluate.add_argument("--measures", nargs="+", help="of ir_measures, such as nDCG@10 RR@10")
    evaluate.add_argument("--depth", type=int, default=100, help="of what re-rankers re-rank (default: 100)")
    evaluate.add_argument("--out", default="evaluation", help="directory of runs, tables and plots")

    submit = command(
        "submit", _submit, "pack a student for TIREx, try it, and hand it to tira-cli",
        "--student my-student --dataset cranfield-20230107-training --team my-team --data tira-folder --dry-run",
    )  # fmt: skip
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

    recipe = command(
        "recipe", _recipe, "run a whole experiment: train its students, measure them, test claims",
        "beyond --data irds:vaswani --out beyond",
        "rank_distillm --data train=irds:msmarco-passage/train orders=folder:dl19 irds:msmarco-passage/trec-dl-2020",
    )  # fmt: skip
    names = "pairdistill, rank_distillm, ustad, distill_vs_contrastive, inranker or beyond"
    recipe.add_argument("name", help=names)
    recipe.add_argument("--scale", default="small", help="small (two cores, default), medium (one GPU) or paper")
    collections = "irds:ID or folder:PATH to measure on; with a role, such as train=irds:ID, to learn from"
    roles = "; ".join(f"{name}: {told}" for name, told in ROLES.items())
    recipe.add_argument("--data", nargs="+", default=[], help=f"{collections}. Roles: {roles}")
    recipe.add_argument("--seeds", nargs="+", type=int, help="of the trainings (default: the scale's)")
    recipe.add_argument("--out", default="recipe", help="directory of tables, claims, pictures and students")
    return parser


def _demo(options: dict[str, Any]) -> Any:
    _check(options)
    from .demo.distil import demo

    return _rows(demo(options.pop("dataset"), **options))


def _label(options: dict[str, Any]) -> Any:
    from .jobs.label import label

    try:
        store = label(options.pop("data"), options.pop("teacher"), options.pop("out"), **options)
    except RuntimeError as error:  # what was labelled is stored
        raise OSError(f"{error} What was labelled before is kept: the same command goes on behind it.") from error
    print(store)
    told = {"store": str(store.directory), "queries": len(store), "documents": store.documents}
    return {**told, "columns": store.columns(), "usage": store.usage.as_dict()}


def _train(options: dict[str, Any]) -> Any:
    from .jobs.spoken import literal
    from .jobs.train import train

    told = [text.partition("=") for text in options.pop("set")]
    if wrong := [name for name, equals, _ in told if not equals]:
        raise ValueError(f"--set {wrong[0]}: write NAME=VALUE, such as epochs=2.")
    options["settings"] = {name: literal(value) for name, _, value in told}
    named = [options.pop(name) for name in ("labels", "student", "loss", "out")]
    found = train(*named, **options)
    print(f"{found['student']}: trained in {found['steps']:,} steps, {found['seconds']:,.0f} s.")
    return found


def _evaluate(options: dict[str, Any]) -> Any:
    if not options["student"] and options["teacher"] is None:
        raise ValueError("name a student: --student DIR, as often as there are some.")
    from .suites.evaluation import evaluate

    options["baseline"] = options["baseline"] or None
    found = evaluate(options.pop("student"), options.pop("out"), **options)
    print(found)
    print(found.cost_table().to_string(float_format="{:.1f}".format))
    return {"results": _rows(found.frame), "costs": _rows(found.cost_table().reset_index())}


def _submit(options: dict[str, Any]) -> Any:
    from .tirex.run import Submission
    from .tirex.submission import submit

    how = {name: options.pop(name) for name in ("out", "data", "dry_run", "overwrite")}
    said = submit(Submission(**options), **how)
    print("\n".join(said))
    return {"said": list(said)}


def _recipe(options: dict[str, Any]) -> Any:
    from pathlib import Path

    from .recipes import run

    out = options["out"]
    table = run(options.pop("name"), **options)
    return {"table": _rows(table), "claims": json.loads((Path(out) / "claims.json").read_text())}


def _rows(table: Any) -> Any:
    """A frame as JSON: one object a row."""
    return json.loads(table.to_json(orient="records"))


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
