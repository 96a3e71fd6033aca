"""Files as an earlier commit wrote them; run as a script with the name of a directory, this writes such files.

What lies in ``tests/kept`` was written by the commit that ``COMMIT`` in it names. It is not to be written anew: that
later versions read it is what the tests show.
"""

import shutil
import string
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyterrier as pt
from generating import Telling
from labelling import Candidates, Shared, topics

import pyterrier_distill as ptd

KEPT = Path(__file__).parent / "kept"
FP32 = {"precision": "fp32", "device": "cpu"}
TOPICS = topics(8)
DOCUMENTS = pd.DataFrame({"docno": [f"d{n}" for n in range(4)], "text": [f"text {n} of {n}" for n in range(4)]})


class Reversing:
    """A listwise model that reverses what it is shown."""

    def generate(self, prompts):
        return [SimpleNamespace(text=" > ".join(f"[{n}]" for n in range(6, 0, -1))) for _ in prompts]

    def __repr__(self):
        return "Reversing()"


def teachers(models):
    """Teachers by name; ``models`` is where the checkpoints are."""
    cross = str(models / "cross")
    return {
        "pointwise": ptd.PointwiseTeacher(cross, **FP32),
        "re-ranker": ptd.PointwiseTeacher(ptd.BiEncoder(str(models / "bi"), **FP32)),
        "pairwise": ptd.PairwiseTeacher(cross, n_pairs=6, **FP32),
        "listwise": ptd.ListwiseLLMTeacher(Reversing(), window_size=4, stride=2),
        "run": ptd.RunTeacher(str(models.parent / "teacher.run")),
    }


def pairdistill(models):
    """A pipeline of two teachers."""
    known = teachers(models)
    return Candidates() >> known["pointwise"] >> known["pairwise"]


def generator():
    return ptd.SyntheticQueryGen(Telling())


def students(models):
    """The five students by name, as they are before training."""
    bi = str(models / "bi")
    return {
        "bi_encoder": ptd.BiEncoder(bi, **FP32),
        "asymmetric": ptd.BiEncoder(ptd.BiEncoder.truncated(bi, 1), doc_encoder=bi, freeze_docs=True, **FP32),
        "cross_encoder": ptd.CrossEncoder(str(models / "cross"), **FP32),
        "mono_t5": ptd.MonoT5(str(models / "t5"), **FP32),
        "late_interaction": ptd.LateInteraction(bi, **FP32),
        "ustad": ptd.USTAD(bi, query_length=16, **FP32),
    }


def labelled():
    """A frame with scores of a teacher, and of the candidates."""
    frame = Candidates()(TOPICS)
    return frame.assign(teacher_score=[float(hash_of(text)) for text in frame["query"] + frame["text"]])


def hash_of(text):
    return sum((n + 1) * ord(letter) for n, letter in enumerate(text)) % 97 / 10


def distiller(student, checkpoints):
    """A training of six steps that writes a checkpoint every third."""
    return ptd.Distiller(
        student, ptd.KLDivergence() + 0.5 * ptd.RankNet(), checkpoints=checkpoints, save_every=3, steps=6,
        queries_per_batch=3, learning_rate=1e-3, precision="fp32", dropout=0.0, verbose=False,
    )  # fmt: skip


def rounds(student, directory, teacher):
    return ptd.IterativeDistiller(
        Shared(), teacher, ptd.Distiller(student, ptd.KLDivergence(), steps=2, precision="fp32", verbose=False),
        directory, rounds=2, verbose=False,
    )  # fmt: skip


def _models(models):
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Normalize, Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling
    from transformers import (
        BertConfig,
        BertForSequenceClassification,
        BertModel,
        BertTokenizerFast,
        T5Config,
        T5ForConditionalGeneration,
        T5TokenizerFast,
    )

    torch.manual_seed(0)
    letters = string.ascii_lowercase + string.digits
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
    models.mkdir(parents=True)
    (models / "vocab.txt").write_text("\n".join(words))
    tokenizer = BertTokenizerFast(str(models / "vocab.txt"), model_max_length=64)
    (models / "vocab.txt").unlink()
    sizes = {
        "vocab_size": len(words), "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
        "intermediate_size": 16, "max_position_embeddings": 64, "initializer_range": 0.3,
    }  # fmt: skip
    plain = models / "plain"
    BertModel(BertConfig(**sizes)).save_pretrained(plain)
    tokenizer.save_pretrained(plain)
    transformer = Transformer(str(plain))
    modules = [transformer, Pooling(16, "mean"), Normalize()]
    SentenceTransformer(modules=modules, device="cpu").save_pretrained(str(models / "bi"), create_model_card=False)
    shutil.rmtree(plain)
    BertForSequenceClassification(BertConfig(**sizes, num_labels=1)).save_pretrained(models / "cross")
    tokenizer.save_pretrained(models / "cross")
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    pieces += [(f"▁{word}", -1.0) for word in ("true", "false")] + [(letter, -3.0) for letter in letters + ":"]
    reader = T5TokenizerFast(vocab=pieces, extra_ids=0, model_max_length=64)
    reader.save_pretrained(models / "t5")
    config = T5Config(
        vocab_size=len(reader), d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, decoder_start_token_id=0,
        pad_token_id=0, eos_token_id=1,
    )  # fmt: skip
    T5ForConditionalGeneration(config).save_pretrained(models / "t5")


def write(root):
    """All kept files, under ``root``."""
    models = root / "models"
    _models(models)
    frame = Candidates()(TOPICS)
    lines = [f"{r.qid} Q0 {r.docno} {r.rank} {-float(r.rank)} run" for r in frame.itertuples()]
    (root / "teacher.run").write_text("\n".join(lines) + "\n")
    store = ptd.LabelStore(root / "labels")
    store.build(pairdistill(models), TOPICS.head(4), batch_size=2, with_text=False, verbose=False)
    expected = {}
    for name, teacher in teachers(models).items():
        expected[name] = ptd.LabelStore(root / "answers" / name).cache(teacher)(frame)
    ptd.QueryStore(root / "queries").cache(generator())(DOCUMENTS)
    for name, student in students(models).items():
        student.save(root / "students" / name)
        expected[f"{name} saved"] = student(frame)
    for name in ("bi_encoder", "cross_encoder"):
        student, here = students(models)[name], root / "training" / name
        distiller(student, here).fit(labelled())
        expected[f"{name} trained"] = student(frame)
        for path in here.iterdir():
            if path.name.startswith("finished"):
                path.unlink()
            elif path.name == "checkpoint-6":
                shutil.rmtree(path)
    student, here = students(models)["cross_encoder"], root / "training" / "finished"
    distiller(student, here).fit(labelled())
    for path in here.glob("checkpoint-*"):
        shutil.rmtree(path)
    student = students(models)["cross_encoder"]
    rounds(student, root / "rounds", teachers(models)["pointwise"]).fit(TOPICS)
    for path in root.glob("rounds/round-*/training/checkpoint-*"):
        shutil.rmtree(path)
    expected["rounds"] = student(frame)
    late = ptd.LateInteraction(str(models / "bi"), **FP32)
    (late >> ptd.MultiVectorIndex(root / "vectors")).index(DOCUMENTS.to_dict("records"))
    expected["vectors"] = (late.query_encoder() >> ptd.MultiVectorIndex(root / "vectors"))(TOPICS)
    columns = ["qid", "docno", "score", "rank", "teacher_score", "teacher_prefs", "teacher_rank"]
    (root / "expected").mkdir()
    for name, found in expected.items():
        found[[c for c in columns if c in found]].to_json(root / "expected" / f"{name}.json", orient="records")


def read(name):
    """The answers that were given when the files were written."""
    frame = pd.read_json(KEPT / "expected" / f"{name}.json", dtype={"qid": str, "docno": str})
    return frame.astype({"score": float})


if __name__ == "__main__":
    pt.documentation._cached_objects_inv = {}
    np.random.seed(0)
    write(Path(sys.argv[1]))
