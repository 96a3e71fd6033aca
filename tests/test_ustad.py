"""The USTAD student: three modes of one encoder, against plain transformers; trained together, saved, indexed."""

import itertools
import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pyterrier as pt
import pyterrier_dr
import pytest
import torch
from pyterrier.measures import nDCG

import pyterrier_distill as ptd
from pyterrier_distill.training.lists import Collator
from pyterrier_distill.training.reading import Reader

FP32 = {"precision": "fp32", "device": "cpu"}
MODES = ("cross", "dual", "late")
START = 20  # where documents begin in these tests


def ustad(name, **settings):
    return ptd.USTAD(name, **{"modes": MODES, "query_length": START, **FP32, **settings})


@pytest.fixture
def ten(documents):
    """Ten queries with three documents each; some documents stand in several lists."""
    rng = np.random.default_rng(5)
    rows = []
    for n in range(10):
        query = " ".join([f"{n}", *rng.choice("red green dog cat tree river".split(), rng.integers(0, 3))])
        for docno in rng.choice(documents["docno"], size=3, replace=False):
            rows.append((f"q{n}", query, docno))
    frame = pd.DataFrame(rows, columns=["qid", "query", "docno"]).merge(documents, on="docno")
    return frame.assign(score=0.0).sort_values("qid", kind="stable", ignore_index=True)


@pytest.fixture
def judged(ten):
    return ten.groupby("qid").head(1)[["qid", "docno"]].assign(label=1)


@pytest.fixture(scope="session")
def other_models(tmp_path_factory):
    """Encoders that number positions otherwise, have no segments, or take no positions at all."""
    import string

    from transformers import BertTokenizerFast, FunnelConfig, FunnelModel, RobertaConfig, RobertaModel

    letters = string.ascii_lowercase
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
    made = {}
    for name in ("funnel", "roberta"):
        path = tmp_path_factory.mktemp(name)
        if name == "roberta":
            words[:2] = words[1::-1]  # its padding has the number 1, and positions are counted from behind it
        (path / "vocab.txt").write_text("\n".join(words))
        BertTokenizerFast(str(path / "vocab.txt")).save_pretrained(path)
        torch.manual_seed(0)
        if name == "roberta":
            model = RobertaModel(
                RobertaConfig(
                    vocab_size=len(words), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, pad_token_id=1,
                    intermediate_size=64, max_position_embeddings=130, type_vocab_size=1, initializer_range=0.2,
                )
            )  # fmt: skip
        else:
            model = FunnelModel(
                FunnelConfig(
                    vocab_size=len(words), block_sizes=[1, 1], d_model=32, n_head=2, d_head=16, d_inner=64,
                    num_decoder_layers=1, max_position_embeddings=128,
                )
            )  # fmt: skip
        model.save_pretrained(path)
        made[name] = str(path)
    return made


def reference(name, query, document, pooling="mean", offset=0, segments=True):
    """The three scores of one pair, by transformers alone."""
    from transformers import AutoModel, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(name), AutoModel.from_pretrained(name).eval()
    cls, sep = [tokenizer.cls_token_id], [tokenizer.sep_token_id]
    q = cls + tokenizer.encode(query, add_special_tokens=False)[: START - 2] + sep
    d = (cls if pooling == "cls" else []) + tokenizer.encode(document, add_special_tokens=False)
    d = d[: tokenizer.model_max_length - START - 1] + sep
    places = list(range(len(q))), list(range(START, START + len(d)))

    def states(ids, place, kinds):
        extra = {"token_type_ids": torch.tensor([kinds])} if segments else {}
        position_ids = torch.tensor([place]) + offset
        with torch.no_grad():
            return model(input_ids=torch.tensor([ids]), position_ids=position_ids, **extra).last_hidden_state[0]

    pool = (lambda h: h[0]) if pooling == "cls" else (lambda h: h.mean(0))
    h = states(q + d, places[0] + places[1], [0] * len(q) + [1] * len(d))
    hq, hd = states(q, places[0], [0] * len(q)), states(d, places[1], [1] * len(d))
    late = (hq @ hd.T).max(dim=1).values.sum()
    return {"cross": pool(h[: len(q)]) @ pool(h[len(q) :]), "dual": pool(hq) @ pool(hd), "late": late}


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("mode", MODES)
def test_each_mode_is_what_transformers_computes(mode, pooling, tiny, ten):
    scored = ustad(tiny, mode=mode, pooling=pooling)(ten.head(6))
    for row in scored.itertuples():
        expected = reference(tiny, row.query, row.text, pooling)[mode]
        assert row.score == pytest.approx(float(expected), rel=1e-5, abs=1e-5)
    for scale in (0.25, {mode: 0.25}):
        scaled = ustad(tiny, mode=mode, pooling=pooling, scale=scale)(ten.head(6))
        np.testing.assert_allclose(scaled["score"], 0.25 * scored["score"], rtol=1e-5, atol=1e-6)


def test_positions_are_numbered_as_the_model_does(other_models, ten):
    """RoBERTa's first position is 2, and it has one segment."""
    for mode in MODES:
        for row in ustad(other_models["roberta"], mode=mode)(ten.head(4)).itertuples():
            expected = reference(other_models["roberta"], row.query, row.text, offset=2, segments=False)[mode]
            assert row.score == pytest.approx(float(expected), rel=1e-5, abs=1e-5)
    with pytest.raises(ValueError, match="at most 128 tokens"):
        ustad(other_models["roberta"], max_length=129)(ten)


def test_a_model_without_positions_says_so_and_works(other_models, ten, caplog):
    student = ustad(other_models["funnel"], max_length=100)
    scored = {mode: student.in_mode(mode)(ten)["score"].to_numpy() for mode in MODES}
    assert "is not told positions" in caplog.text
    assert all(np.isfinite(values).all() and values.std() > 0 for values in scored.values())


def test_the_dual_document_stands_behind_the_query_whatever_it_is(tiny, documents):
    """Vectors come from positions that a query leaves free; at others they would be others."""
    texts = documents["text"].tolist()
    vectors = ustad(tiny).vectors(texts, "document")
    assert vectors.shape == (12, 32)
    moved = ustad(tiny, query_length=START + 1).vectors(texts, "document")
    assert np.abs(moved - vectors).max() > 1e-3
    assert np.abs(ustad(tiny).vectors(texts, "query") - vectors).max() > 1e-3
    features = ustad(tiny).reader.pairs([("red", texts[0]), ("a long query of words", texts[0])])
    alone = ustad(tiny).reader.documents([texts[0]])
    for row in range(2):
        where = features["document"][row]
        for name in ("input_ids", "position_ids", "token_type_ids"):
            assert features[name][row][where].tolist() == alone[name][0].tolist()
    assert alone["position_ids"][0, 0] == START and alone["token_type_ids"].unique().tolist() == [1]


@pytest.mark.parametrize("mode", MODES)
def test_scores_depend_on_nothing_but_the_pair(mode, tiny, ten):
    student = ustad(tiny, mode=mode)
    whole = student(ten)["score"].to_numpy()
    alone = np.concatenate([student(ten.iloc[[n]])["score"] for n in range(len(ten))])
    np.testing.assert_allclose(alone, whole, atol=1e-4, rtol=1e-5)
    long = ten.copy()
    long.loc[0, "text"] = " ".join(["river"] * 900)
    np.testing.assert_allclose(student(long)["score"][1:], whole[1:], atol=1e-4, rtol=1e-5)
    small = ustad(tiny, mode=mode, batch_size=2)(ten.sample(frac=1, random_state=0)).sort_index()["score"]
    np.testing.assert_allclose(small, whole, atol=1e-4, rtol=1e-5)
    assert len(student(ten.iloc[:0])) == 0


@pytest.mark.parametrize("mode", MODES)
def test_half_precision_loses_little(mode, tiny, ten):
    """States are computed in half precision, sums of products are not."""
    expected = ustad(tiny, mode=mode)(ten)["score"]
    found = ustad(tiny, mode=mode, precision="bf16")(ten)["score"]
    assert 0 < np.abs(found - expected).max() < 0.02 * np.abs(expected).max()


@pytest.mark.parametrize("mode", MODES)
def test_long_texts_are_cut(mode, tiny, ten):
    student = ustad(tiny, mode=mode, query_length=8, max_length=24)
    row = ten.head(1).assign(query="a b c d e f", text="a b c d e f g h i j k l m n o")
    longer = row.assign(query="a b c d e f g h i", text=row["text"] + " p q r")
    assert student(longer)["score"].iloc[0] == student(row)["score"].iloc[0]
    assert student(row.assign(query="a b c d e"))["score"].iloc[0] != student(row)["score"].iloc[0]
    assert student(row.assign(text="a b"))["score"].iloc[0] != student(row)["score"].iloc[0]


def test_modes_share_weights(tiny, ten, judged):
    student = ustad(tiny, mode="cross", modes=("cross",))
    others = {mode: student.in_mode(mode) for mode in MODES}
    before = {mode: one(ten)["score"].to_numpy() for mode, one in others.items()}
    fitted(student, ptd.LocalizedContrastive(), ten, judged, epochs=2)
    for mode, one in others.items():
        assert one.model is student.model and one.mode == mode
        assert not np.allclose(one(ten)["score"], before[mode])
    assert student.mode == "cross" and others["dual"] != student and "trained" in repr(others["late"])


def batch_of(student, loss, frame, judged):
    lists = Reader(student, loss, judged, None, None).read(frame)
    batch = Collator(student, loss)(lists)
    return batch, student.forward(batch["batch"], batch["mask"], loss.needs)


def padded(frame, values):
    """Values of a frame's rows as ``[B, N]``, with the mask."""
    rows = [values[index] for index in frame.groupby("qid", sort=False).indices.values()]
    out = torch.zeros(len(rows), max(map(len, rows)))
    mask = torch.zeros(out.shape, dtype=torch.bool)
    for n, row in enumerate(rows):
        out[n, : len(row)], mask[n, : len(row)] = torch.tensor(row), True
    return out, mask


@pytest.mark.parametrize("modes", [m for n in (1, 2, 3) for m in itertools.combinations(MODES, n)], ids="+".join)
def test_the_joint_loss_is_the_sum_over_modes_and_pairs(modes, tiny, ten, judged):
    """Eq. 8 by hand, from the scores that ranking in each mode gives; lists of one to three documents."""
    ragged = ten.drop(index=[1, 2, 5, 9]).reset_index(drop=True)
    student = ustad(tiny, modes=modes, scale={"late": 0.1, "dual": 2})
    weight = 0.3
    loss = ptd.LocalizedContrastive() + (weight * ptd.ScoreMatch() if len(modes) > 1 else 0 * ptd.MSE("label"))
    batch, outputs = batch_of(student, loss, ragged, judged)
    relevant = ragged.merge(judged, how="left")["label"].fillna(0).to_numpy(dtype=float)
    labels, mask = padded(ragged, relevant)
    scores = {mode: padded(ragged, student.in_mode(mode)(ragged)["score"].to_numpy(float))[0] for mode in modes}
    expected = torch.tensor(0.0)
    for one in scores.values():
        log_p = one.masked_fill(~mask, float("-inf")).log_softmax(dim=1)
        expected += -log_p[(labels > 0) & mask].mean()
    for a, b in itertools.combinations(scores.values(), 2):
        expected += weight * (a - b)[mask].abs().mean()
    total = loss.total(outputs, batch["labels"])
    assert float(total.detach()) == pytest.approx(float(expected), rel=1e-4)
    assert (outputs.modes is None) == (len(modes) == 1)
    student.model.zero_grad()
    total.backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in student.model.parameters())


def test_a_label_column_is_matched_in_every_mode(tiny, ten):
    labelled = ten.assign(teacher_score=np.linspace(-1, 1, len(ten)))
    student, loss = ustad(tiny), ptd.ScoreMatch(label="teacher_score")
    batch, outputs = batch_of(student, loss, labelled, None)
    expected = sum(
        np.abs(student.in_mode(mode)(ten)["score"].to_numpy() - labelled["teacher_score"]).mean() for mode in MODES
    )
    assert float(loss.total(outputs, batch["labels"]).detach()) == pytest.approx(expected, rel=1e-5)


def test_without_the_cross_mode_other_queries_documents_are_contrasted(tiny, ten, judged):
    student, loss = ustad(tiny, modes=("dual", "late")), ptd.InfoNCE() + ptd.LocalizedContrastive()
    ragged = ten.drop(index=[1, 2, 5]).reset_index(drop=True)
    ragged.loc[ragged["qid"] == "q3", "query"] = ragged.loc[ragged["qid"] == "q0", "query"].iloc[0]  # one text twice
    batch, outputs = batch_of(student, loss, ragged, judged)
    texts = list(dict.fromkeys(ragged["text"]))
    queries = ragged.drop_duplicates("qid")
    every = pd.DataFrame(
        [(q.qid, q.query, f"x{n}", text) for q in queries.itertuples() for n, text in enumerate(texts)],
        columns=["qid", "query", "docno", "text"],
    )
    for mode in ("dual", "late"):
        expected = student.in_mode(mode)(every)["score"].to_numpy().reshape(len(queries), len(texts))
        found = outputs.modes[mode]
        np.testing.assert_allclose(found.batch_scores.detach(), expected, atol=1e-4, rtol=1e-5)
        gathered = found.batch_scores.gather(1, found.batch_index)
        torch.testing.assert_close(gathered[found.mask], found.scores[found.mask])
    before = float(loss.total(outputs, batch["labels"]).detach())
    fitted(student, loss, ragged, judged, epochs=20)
    batch, outputs = batch_of(student, loss, ragged, judged)
    assert float(loss.total(outputs, batch["labels"]).detach()) < before


def fitted(student, loss, frame, qrels=None, **settings):
    defaults = {"precision": "fp32", "verbose": False, "learning_rate": 2e-3, "epochs": 60, "queries_per_batch": 10}
    return ptd.Distiller(student, loss, dropout=0.0, **{**defaults, **settings}).fit(frame, qrels)


@pytest.mark.slow
def test_overfits_ten_queries_in_all_modes_and_is_found_again(tiny, ten, judged, tmp_path):
    student = ustad(tiny, mode="dual", max_length=120, scale={"late": 0.1})
    loss = ptd.LocalizedContrastive() + 0.01 * ptd.ScoreMatch()
    fitted(student, loss, ten, judged, epochs=120)
    for mode in MODES:
        ranked = student.in_mode(mode)(ten)
        assert pt.Evaluate(ranked, judged, [nDCG @ 10])["nDCG@10"] == pytest.approx(1.0), mode
    saved = student.save(tmp_path / "student")
    for again in (saved, ptd.USTAD(tmp_path / "student", **FP32), pt.Artifact.load(str(tmp_path / "student"))):
        again.precision = "fp32"
        assert (again.mode, again.modes, again.query_length, again.max_length) == ("dual", MODES, START, 120)
        assert again.scale == {"late": 0.1}
        for mode in MODES:
            expected = student.in_mode(mode)(ten)
            pd.testing.assert_frame_equal(again.in_mode(mode)(ten), expected, atol=1e-5, rtol=1e-6)
        assert again.manifest["loss"] == "LocalizedContrastive() + 0.01 * ScoreMatch()"
    row = ten.iloc[0]
    found = float(reference(str(tmp_path / "student"), row["query"], row["text"])["late"])  # by transformers alone
    assert 0.1 * found == pytest.approx(student.in_mode("late")(ten)["score"].iloc[0], rel=1e-4)
    with pytest.raises(FileExistsError):
        student.save(tmp_path / "student")


@pytest.mark.parametrize("mode", MODES)
def test_validation_ranks_with_the_mode(mode, tiny, ten, judged):
    student = ustad(tiny, mode=mode)
    distiller = ptd.Distiller(
        student, ptd.LocalizedContrastive() + 0.1 * ptd.ScoreMatch(), precision="fp32", dropout=0.0, verbose=False,
        steps=4, eval_every=1, learning_rate=1e-3, queries_per_batch=10,
    )  # fmt: skip
    distiller.fit(ten, judged, ten, judged)
    best = max(entry["eval_nDCG@10"] for entry in distiller.history if "eval_nDCG@10" in entry)
    assert pt.Evaluate(student(ten), judged, [nDCG @ 10])["nDCG@10"] == pytest.approx(best)
    labelled = ten.merge(judged, how="left").fillna({"label": 0})
    distiller = ptd.Distiller(student, ptd.LocalizedContrastive() + ptd.ScoreMatch(), steps=2, verbose=False)
    distiller.fit(labelled, None, labelled)  # by the joint loss
    assert any("eval_loss" in entry for entry in distiller.history)


def test_a_trained_student_is_pickled_with_its_weights(tiny, ten, judged):
    student = ustad(tiny, mode="late")
    fitted(student, ptd.LocalizedContrastive() + ptd.ScoreMatch(), ten, judged, epochs=2)
    again = pickle.loads(pickle.dumps(student))
    assert again == student
    for mode in MODES:
        pd.testing.assert_frame_equal(again.in_mode(mode)(ten), student.in_mode(mode)(ten))


def test_gradient_checkpointing_changes_no_weight(tiny, ten, judged):
    scores = []
    for checkpointing in (False, True):
        student = ustad(tiny)
        loss = ptd.LocalizedContrastive() + ptd.ScoreMatch()
        fitted(student, loss, ten, judged, epochs=2, args={"gradient_checkpointing": checkpointing})
        scores.append(student(ten)["score"].to_numpy())
    np.testing.assert_allclose(scores[0], scores[1], atol=1e-3, rtol=1e-4)


def test_cut_to_layers(tiny, ten, tmp_path):
    whole, cut = ustad(tiny), ustad(tiny, layers=(0, 3))
    assert cut.num_parameters() < whole.num_parameters()
    pd.testing.assert_frame_equal(cut.save(tmp_path / "cut")(ten), cut(ten), atol=1e-5)


# -- as a bi-encoder --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1.0, {"dual": 0.2, "late": 3.0}])
def test_as_bi_encoder_it_scores_and_retrieves_as_in_the_dual_mode(scale, tiny, ten, documents, tmp_path):
    student = ustad(tiny, scale=scale)
    encoder, dual = student.as_bi_encoder(), student.in_mode("dual")
    expected = dual(ten)
    np.testing.assert_allclose(encoder(ten)["score"], expected["score"], rtol=1e-5)
    assert encoder(ten)["rank"].tolist() == expected["rank"].tolist()
    index = pyterrier_dr.FlexIndex(str(tmp_path / "index"), verbose=False)
    (encoder >> index).index(documents.to_dict("records"))
    topics = ten[["qid", "query"]].drop_duplicates()
    found = (encoder.query_encoder() >> index.np_retriever())(topics)
    every = topics.merge(documents, how="cross")
    pairs = found.merge(dual(every), on=["qid", "docno"], suffixes=("", "_dual"))
    assert len(pairs) == len(every)
    np.testing.assert_allclose(pairs["score"], pairs["score_dual"], rtol=1e-4, atol=1e-5)
    texts = topics["query"].tolist()
    torch.testing.assert_close(
        encoder.encode_queries_torch(texts).detach(), torch.tensor(encoder.encode_queries(texts)), atol=1e-5, rtol=1e-5
    )
    assert encoder.encode_queries([]).shape == (0, 0) and encoder.encode_queries_torch([]).shape == (0, 32)
    again = pickle.loads(pickle.dumps(encoder))
    assert again == encoder and hash(again) == hash(encoder)
    with pytest.raises(ValueError, match="list of texts"):
        encoder.encode_docs("one text")


def test_it_teaches_a_bi_encoder(tiny, ten):
    """EmbedDistill: the student's vectors come to the teacher's, of queries and of documents."""
    teacher = ustad(tiny, scale=1 / 32).as_bi_encoder()
    labelled = (teacher.query_encoder() >> teacher.doc_encoder())(ten)
    student = ptd.BiEncoder(str(Path(tiny).parent / "plain"), layers=2, **FP32)
    # the student is one of cosines: its vectors are unit vectors, the teacher's are not
    loss = ptd.EmbeddingMatch(on=("query", "document"), distance="cosine")
    losses = [entry["loss"] for entry in fitted(student, loss, labelled, epochs=30).history if "loss" in entry]
    assert losses[-1] < 0.5 * losses[0]


# -- mistakes ---------------------------------------------------------------------------------------------------------


def test_mistakes(tiny, tiny_t5, tiny_llm, ten, tmp_path):
    with pytest.raises(ValueError, match="mode must be one of cross, dual, late"):
        ustad(tiny, mode="colbert")
    with pytest.raises(ValueError, match="mode must be one of"):
        ustad(tiny).in_mode("colbert")
    for modes in ((), ("cross", "other"), "both"):
        with pytest.raises(ValueError, match="modes must be some of"):
            ustad(tiny, modes=modes)
    with pytest.raises(ValueError, match="modes must be some of"):
        ustad(tiny).apply_attributes(modes=())
    for wrong in ({"pooling": "max"}, {"query_length": 2}, {"max_length": 21}):
        with pytest.raises(ValueError, match=next(iter(wrong)).split("_")[0]):
            ustad(tiny, **wrong)
    for scale in (0.0, True, "1", {}, {"other": 1.0}, {"late": -1.0}):
        with pytest.raises(ValueError, match="scale must be a positive number"):
            ustad(tiny, scale=scale)
    with pytest.raises(ValueError, match="encoder with a decoder"):
        ustad(tiny_t5)(ten)
    with pytest.raises(ValueError, match=r"has no \[CLS\], \[SEP\]"):
        ustad(tiny_llm)(ten)
    with pytest.raises(FileNotFoundError):
        ptd.USTAD("./nowhere")
    with pytest.raises(ValueError, match="holds no configuration"):
        ustad(tmp_path)(ten)
    assert ustad(tiny, modes="dual").mode == "dual" and ustad(tiny, modes=("late", "cross")).modes == ("cross", "late")


def test_losses_that_do_not_fit_are_refused_at_once(tiny):
    for student in (ustad(tiny, modes=("cross",)), ptd.BiEncoder(tiny), ptd.CrossEncoder(tiny)):
        with pytest.raises(ValueError, match='needs modes.*pass label="teacher_score"'):
            ptd.Distiller(student, ptd.KLDivergence() + ptd.ScoreMatch())
        assert ptd.Distiller(student, ptd.ScoreMatch(label="teacher_score"))
    with pytest.raises(ValueError, match="InfoNCE.* needs batch_scores, which USTAD does not give.*cross mode"):
        ptd.Distiller(ustad(tiny), ptd.InfoNCE() + ptd.ScoreMatch())
    assert ptd.Distiller(ustad(tiny, modes=("dual", "late")), ptd.InfoNCE() + ptd.ScoreMatch())
    assert repr(ptd.ScoreMatch()) == "ScoreMatch()" and ptd.ScoreMatch() != ptd.ScoreMatch("teacher_score")
