"""Rank-DistiLLM (Schlatt et al. 2025): a cross-encoder from labels, then from the rankings of an LLM.

§3.1, 3.2, Figure 1 and App. C; the defaults are the paper's.
"""

import pyterrier_distill as ptd


def rank_distillm(
    retriever,
    text,
    ranking,
    topics,
    qrels,
    dev_topics,
    dev_qrels,
    *,
    start="google/electra-base-discriminator",
    first_stage_labels=True,
    loss=None,
    lengths=(32, 256),
    mined=200,
    depth=100,
    steps=20_000,
    device=None,
    precision="auto",
    **training,
):
    """Train a student.

    Args:
        retriever: Q → R, a strong one.
        text: R → R with document text.
        ranking: a listwise teacher, or a RunTeacher of what one said.
        topics, qrels: MS MARCO's training queries and labels.
        dev_topics, dev_qrels: what early stopping looks at.
        first_stage_labels: whether to train on labels before (two stages), or not (a single one).
        loss: RankNet() if None; ADRMSE() is the paper's other one.
        lengths: tokens of a query and of a document.
        depth: how many documents of the first stage's ranking are learnt from (Figure 1).
        steps: of a stage, at most: the second ends when nDCG@10 has not improved for 100.
        **training: settings of both Distillers that differ from the paper's.

    Returns:
        The student.
    """
    read = {"query_length": lengths[0], "document_length": lengths[1]}
    student = ptd.CrossEncoder(start, **read, device=device, precision=precision)
    settings = {"queries_per_batch": 32, "learning_rate": 1e-5, "precision": precision, **training}
    if first_stage_labels:
        mine = ptd.mine_negatives(retriever, depth=mined, n=7, exclude=qrels)
        stage = ptd.Distiller(student, ptd.LocalizedContrastive(), steps=steps, **settings)
        (mine >> text >> stage).fit(topics, None)
    candidates = retriever % depth >> text
    stage = ptd.Distiller(student, loss or ptd.RankNet(), steps=steps, eval_every=25, early_stopping=4, **settings)
    stage.fit((candidates >> ranking)(topics), None, candidates(dev_topics), dev_qrels)
    return student
