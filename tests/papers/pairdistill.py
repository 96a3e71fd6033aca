"""PairDistill (Huang and Chen 2024): pointwise and pairwise relevance distilled into a late-interaction retriever.

§4.2, 4.3, 5.2 and App. C.2; the defaults are the paper's.
"""

import pyterrier_distill as ptd


def pairdistill(
    dataset,
    topics,
    qrels=None,
    *,
    out,
    start="colbert-ir/colbertv2.0",
    pointwise="cross-encoder/ms-marco-MiniLM-L-6-v2",
    pairwise="castorini/duot5-3b-msmarco",
    depth=100,
    documents=64,
    pairs=50,
    delta=10,
    rounds=2,
    device=None,
    precision="auto",
    **training,
):
    """Train a student; without ``qrels`` the zero-shot way, which has no contrastive term.

    Args:
        dataset: the collection.
        topics: training queries; with judgements, those that nobody judged teach the other terms only.
        qrels: judgements, or None.
        out: a directory.
        **training: settings of the Distiller that differ from the paper's.

    Returns:
        The IterativeDistiller, which ranks with the student.
    """
    runs = {"device": device, "precision": precision}
    student = ptd.LateInteraction(start, query_length=32, document_length=180, **runs)

    def search(student):
        tokens = ptd.MultiVectorIndex(out / f"index-{student.fingerprint()[:12]}")
        if not tokens.built():
            (student >> tokens).index(dataset.get_corpus_iter())
        return student.query_encoder() >> tokens.retriever(num_results=depth) >> dataset.text_loader()

    point = ptd.PointwiseTeacher(pointwise, **runs)
    pair = ptd.PairwiseTeacher(pairwise, n_pairs=pairs, delta=delta, **runs)
    loss = 1.0 * ptd.KLDivergence(temperature=1.0) + 3.0 * ptd.PairwiseKL()
    if qrels is not None:
        loss = ptd.InfoNCE(own_negatives=False) + loss
    settings = {"steps": 100_000, "queries_per_batch": 32, "learning_rate": 1e-5, "precision": precision, **training}
    sampler = ptd.ListSampler(documents, strategy="with_pairs")
    distiller = ptd.Distiller(student, loss, sampler=sampler, **settings)
    return ptd.IterativeDistiller(search, point >> pair, distiller, out, rounds=rounds).fit(topics, qrels)
