"""Distillation versus Contrastive Learning (Xu et al. 2025): retriever, teacher, and students by both ways.

§3.2, 3.3, 4 and App. B; the defaults are the paper's.
"""

import pyterrier_dr

import pyterrier_distill as ptd


def distillation_vs_contrastive(
    dataset,
    triples,
    topics,
    qrels,
    *,
    out,
    backbone="Qwen/Qwen2.5-7B",
    students=("Qwen/Qwen2.5-0.5B", "Qwen/Qwen2.5-1.5B", "Qwen/Qwen2.5-3B"),
    lora=None,
    depth=200,
    negatives=15,
    device=None,
    precision="auto",
    **training,
):
    """Train everything on the same lists of a positive and its negatives.

    Args:
        dataset: the collection.
        triples: R frame that the retriever learns from: positives and mined negatives with text and ``label``.
        topics, qrels: what the re-rankers learn from.
        **training: settings of the Distillers that differ from the paper's.

    Returns:
        The retriever's pipeline, and name → re-ranker: the teacher, and each student by contrastive learning and by KL.
    """
    lora = lora or {"r": 16, "alpha": 32}
    runs = {"device": device, "precision": precision, "lora": lora}
    settings = {"learning_rate": 1e-4, "queries_per_batch": 128, "epochs": 1, "precision": precision, **training}
    prompts = {"query": "query: ", "document": "passage: "}
    encoder = ptd.BiEncoder(backbone, pooling="lasttoken", append_eos=True, prompts=prompts, similarity="cos", **runs)
    ptd.Distiller(encoder, ptd.InfoNCE(temperature=0.01), **settings).fit(triples)
    index = pyterrier_dr.FlexIndex(str(out / "retriever.flex"))
    (encoder >> index).index(dataset.get_corpus_iter())
    retriever = encoder.query_encoder() >> index.np_retriever(num_results=depth)

    mine = ptd.mine_negatives(retriever, depth=depth, n=negatives, exclude=qrels, text=dataset, per="pair")
    lists = mine(topics)
    rerankers = {"teacher": ptd.CrossEncoder(backbone, append_eos=True, **runs)}
    ptd.Distiller(rerankers["teacher"], ptd.LocalizedContrastive(), **settings).fit(lists)
    labelled = ptd.PointwiseTeacher(rerankers["teacher"])(lists)
    for name in students:
        for way, loss in (("CL", ptd.LocalizedContrastive()), ("KD", ptd.KLDivergence())):
            student = ptd.CrossEncoder(name, append_eos=True, **runs)
            ptd.Distiller(student, loss, **settings).fit(labelled)
            rerankers[f"{name} {way}"] = student
    return retriever, rerankers
