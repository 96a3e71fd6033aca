"""What the five papers print: every table of results as data, to stand beside one's own, marked as published.

Example:
    >>> import pyterrier_distill as ptd
    >>> ptd.published.tables("PairDistill", "T4")[["system", "dataset", "printed"]]
    >>> ptd.published.beside(results, paper="InRanker", table="T6")

The files ``*.csv`` beside this one hold one cell a line. They were read from text copies of the papers. What a copy
lost, and what a paper leaves out (``-``), is absent, never guessed: two cells of PairDistill's Table 1 (GPL on DBPedia,
PTR on FEVER), and a column of InRanker's Table 2, whose seven names stand over six columns (RankT5-Enc-3B's is gone).
Row labels that the copy of USTAD's Table 8 shifted, and names that were misread, are put right; figures are as printed,
right or wrong.
"""

from .tables import PAPERS, beside, tables

__all__ = ["PAPERS", "beside", "tables"]
