"""What a recipe found, committed: its table and claims under ``results/recipes``, and on its page of the documentation.

``python benchmarks/recipes.py OUT ...`` reads directories that ``pyterrier-distill recipe`` wrote. Nothing is measured.
"""

import argparse
import json
import shutil
from pathlib import Path

import pandas as pd

from pyterrier_distill.recipes.claims import sentence

HERE = Path(__file__).parent
PAGES = HERE.parent / "pyterrier_distill" / "pt_docs" / "recipes"
BEGIN, END = "<!-- what was found -->", "<!-- until here -->"


def cells(row, columns):
    return " | ".join("" if pd.isna(row[column]) else f"{row[column]}" for column in columns)


def shown(name: str) -> str:
    """A collection without the place that it has on this machine."""
    role, folder, path = name.partition("folder:")
    return f"{role}{folder}…/{'/'.join(Path(path).parts[-2:])}" if folder else name


def found(folder: Path) -> str:
    """Table and claims in Markdown."""
    run, table = json.loads((folder / "run.json").read_text()), pd.read_csv(folder / "table.csv")
    columns = list(table.columns)
    lines = [
        f"Scale `{run['scale']}`, seeds {', '.join(map(str, run['settings']['seeds']))}; `p` by a paired t-test over"
        f" queries against *{run['baseline']}*, uncorrected.",
        "",
        "| " + " | ".join(columns) + " |",
        "|" + "---|" * len(columns),
        *(f"| {cells(row, columns)} |" for _, row in table.iterrows()),
        "",
        *(f"* {sentence(claim)}" for claim in json.loads((folder / "claims.json").read_text())),
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", nargs="+", type=Path, help="directories of runs")
    for out in parser.parse_args().out:
        name = json.loads((out / "settings.json").read_text())["recipe"]
        kept = HERE / "results" / "recipes" / name
        kept.mkdir(parents=True, exist_ok=True)
        for file in ("table.csv", "claims.json", "run.json", "differences.png"):
            shutil.copyfile(out / file, kept / file)
        run = json.loads((kept / "run.json").read_text())
        run["data"] = [shown(one) for one in run["data"]]
        (kept / "run.json").write_text(json.dumps(run, indent=1) + "\n")
        page = PAGES / f"{name}.md"
        before, _, rest = page.read_text().partition(BEGIN)
        page.write_text(f"{before}{BEGIN}\n{found(kept)}\n{END}{rest.partition(END)[2]}")
        print(page)


if __name__ == "__main__":
    main()
