"""InRanker (Laitz et al. 2024): a small re-ranker from human labels, a teacher's logits, and synthetic queries.

§3, 4.1, App. A and C; the defaults are the paper's.
"""

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
    mine = ptd.mine_negatives(bm25, depth=depth, n=negatives, exclude=qrels, text=dataset, per="pair")
    logits = ptd.PointwiseTeacher(teacher, **runs)
    human = mine(topics)
    if hard:
        ptd.Distiller(student, ptd.LogitCrossEntropy(), **settings).fit(human)
    ptd.Distiller(student, soft, **settings).fit(logits(human))

    stores = []
    for name, (corpus, first_stage) in corpora.items():
        write = ptd.SyntheticQueryGen(llm, "inpars", n=1, **runs) >> ptd.explode_queries()
        positives = write(ptd.sample_documents(corpus, synthetic))
        around = ptd.mine_negatives(first_stage, depth=depth, n=negatives, text=corpus) >> logits
        stores.append(ptd.LabelStore(out / name).build(around, positives, with_text=True))
    ptd.Distiller(student, soft, **settings).fit(stores)
    return student
