"""Training: query-only embedding matching, our Distiller against sentence-transformers' trainer, same student."""

import argparse
import shutil
import tempfile

import numpy as np
import pandas as pd
import pyterrier as pt
from common import paired, ratios, report

parser = argparse.ArgumentParser()
parser.add_argument("--queries", type=int, default=2048)
parser.add_argument("--batch", type=int, default=64)
parser.add_argument("--rounds", type=int, default=3)
parser.add_argument("--precision", default="fp32", help="of both sides: fp32 or bf16")
parser.add_argument("--out")
options = parser.parse_args()

import torch  # noqa: E402
from datasets import Dataset  # noqa: E402
from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments  # noqa: E402
from sentence_transformers.sentence_transformer.losses import EmbedDistillLoss  # noqa: E402

import pyterrier_distill as ptd  # noqa: E402
from pyterrier_distill.demo.distil import default_teacher  # noqa: E402

teacher = ptd.BiEncoder(default_teacher())
documents = pd.DataFrame(pt.get_dataset("pydocs:test").get_corpus_iter(verbose=False)).head(options.queries)
frame = (ptd.SpanQueries(1) >> ptd.explode_queries() >> teacher.query_encoder())(documents)
common = {"learning_rate": 6e-4, "warmup_steps": 3, "seed": 1}


def ours():
    student = ptd.BiEncoder.truncated(teacher, 2)
    loss = ptd.EmbeddingMatch()
    settings = {
        "queries_per_batch": options.batch,
        "precision": options.precision,
        "learning_rate": 6e-4,
        "verbose": False,
    }
    ptd.Distiller(student, loss, **settings).fit(frame)


def theirs():
    model = ptd.BiEncoder.truncated(teacher, 2).model
    data = Dataset.from_dict(
        {"sentence": frame["query"].tolist(), "label": np.stack(list(frame["query_vec"])).tolist()}
    )
    out = tempfile.mkdtemp()
    arguments = SentenceTransformerTrainingArguments(
        output_dir=out, per_device_train_batch_size=options.batch, num_train_epochs=1, save_strategy="no",
        report_to="none", disable_tqdm=True, bf16=options.precision == "bf16",
        use_cpu=not torch.cuda.is_available(), **common,
    )  # fmt: skip
    loss = EmbedDistillLoss(model)
    SentenceTransformerTrainer(model=model, args=arguments, train_dataset=data, loss=loss).train()
    shutil.rmtree(out)


seconds = paired({"pyterrier_distill": ours, "sentence-transformers": theirs}, options.rounds)
report(
    {
        "what": f"{len(frame)} span queries, batch {options.batch}, 2-layer student, {options.precision}, one epoch",
        "queries_per_second": {name: round(len(frame) / min(values), 1) for name, values in seconds.items()},
        "times_as_fast_as": ratios(seconds, "pyterrier_distill"),
    },
    options.out,
)
