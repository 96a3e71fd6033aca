"""InRanker (Laitz et al. 2024): a small re-ranker from human labels, a teacher's logits, and synthetic queries.

§3, 4.1, App. A and C; the defaults are the paper's.
"""

import pandas as pd

import pyterrier_distill as ptd


def inranker(
    dataset,
    bm25,
    topics,
    qrels,
    corpora,
    *,
    out,
    student,
    teacher="castorini/monot5-3b-msmarco-10k",
    llm="EleutherAI/gpt-j-6b",
    hard=True,
    soft=None,
    synthetic=100_000,
    depth=1000,
    negatives=9,
    runs=None,
    **training,
):
    """Train a student in the phases of Table 1.

    Args:
        dataset, bm25, topics, qrels: MS MARCO: its texts, its first stage Q → R, training queries and judgements.
        corpora: name → (dataset, its first stage), those of BEIR that queries are written for.
        student: a MonoT5, or a causal yes/no student.
        hard: whether it starts on human labels (rows 1, 4) before it sees logits.
        soft: the loss on logits; None = LogitMSE(). LogitMSE(only="true") and the KL are App. C's others.
        synthetic: documents a query is written for, of each corpus.
        **training: settings of the Distillers that differ from the paper's.

    Returns:
        The student.
    """
    runs, soft = runs or {}, soft or ptd.LogitMSE()
    settings = {"learning_rate": 7e-5, "queries_per_batch": 32, "epochs": 10, **training}
    human = ptd.mine_negatives(bm25, depth=depth, n=negatives, exclude=qrels, text=dataset, per="pair")(topics)
    logits = ptd.PointwiseTeacher(teacher, **runs)
    if hard:
        ptd.Distiller(student, ptd.LogitCrossEntropy(), **settings).fit(human)
    ptd.Distiller(student, soft, **settings).fit(logits(human))

    stores = []
    for name, (corpus, first_stage) in corpora.items():
        documents = pd.DataFrame(corpus.get_corpus_iter(verbose=False)).sample(synthetic, random_state=42)
        queries = (ptd.SyntheticQueryGen(llm, "inpars", **runs) >> ptd.explode_queries())(documents)
        own = ptd.positives(queries)
        around = ptd.mine_negatives(first_stage, depth=depth, n=negatives, exclude=own, text=corpus) >> logits
        stores.append(ptd.LabelStore(out / name).build(around, queries[["qid", "query"]], with_text=True))
    ptd.Distiller(student, soft, **settings).fit(stores)
    return student
