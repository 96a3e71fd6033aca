"""``python -m pyterrier_distill.tirex``: rank a collection as TIRA hands it over, and write what TIRA takes."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence

from ..commands import MISTAKES, ended


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the submission.

    Args:
        arguments: None = those of the process.

    Returns:
        0 when the run was written, 2 after bad input, which is reported in one line; nothing is written then.
    """
    parser = argparse.ArgumentParser(prog="python -m pyterrier_distill.tirex", description=__doc__.split(": ")[1])
    system = parser.add_mutually_exclusive_group(required=True)
    system.add_argument("--student", help="directory of a saved student")
    system.add_argument(
        "--pipeline", metavar="MODULE:NAME", help="a transformer, or a function of a pyterrier_distill.suites.Context"
    )
    parser.add_argument("--input", help="directory of the collection (default: $inputDataset)")
    parser.add_argument("--output", help="directory of the run (default: $outputDir)")
    parser.add_argument("--dataset", help="TIRA's name of the collection (default: by its metadata.json)")
    parser.add_argument("--team", default="anonymous", help="for the metadata")
    parser.add_argument("--name", help="of the system (default: the student's directory, or the pipeline)")
    parser.add_argument("--description", help="of the system, for the metadata")
    parser.add_argument("--repository", help="where its source is, for the metadata")
    parser.add_argument("--depth", type=int, default=1000, help="documents of a query that are ranked")
    options = parser.parse_args(arguments)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # TIRA's sandbox has no network, and does not say so
    given = vars(options)
    place = given.pop("input"), given.pop("output")

    def work() -> None:
        from .run import Submission

        print(Submission(**given).run(*place))

    wrong = (*MISTAKES, TypeError)  # of a pipeline that is none
    return ended("pyterrier_distill.tirex", work, mistakes=wrong, stopped="stopped; nothing was written.")


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a sandbox that stops leaves nothing half-written, too
    sys.exit(main())
