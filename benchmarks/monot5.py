"""monoT5: ours against pyterrier_t5 at batch size 1, the only one at which its scores do not depend on the batch.

Weights are random (no T5 is needed to see speed), of t5-small's shape or t5-base's; the passages are dl19's, the
tokenizer is trained on them. Scores are compared in float32; speed in float32, and in bf16 for ours, beside it.
Needs pyterrier-t5 (``pip install --no-deps pyterrier-t5``).
"""

import argparse
import tempfile
from pathlib import Path

from common import report
from harness import measure

SHAPES = {"small": (512, 64, 2048, 6, 8), "base": (768, 64, 3072, 12, 12)}
parser = argparse.ArgumentParser()
parser.add_argument("--collections", type=Path, required=True, help="of BEIR folders, dl19 among them")
parser.add_argument("--shape", choices=SHAPES, default="small")
parser.add_argument("--rounds", type=int, default=20)
parser.add_argument("--block", type=float, default=1.0)
parser.add_argument("--tries", type=int, default=2)
parser.add_argument("--threads", type=int, default=0)
parser.add_argument("--out")
options = parser.parse_args()

import pyterrier as pt  # noqa: E402
import pyterrier_t5  # noqa: E402
import torch  # noqa: E402
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers  # noqa: E402
from transformers import AutoTokenizer, PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration  # noqa: E402

import pyterrier_distill as ptd  # noqa: E402

if options.threads:
    torch.set_num_threads(options.threads)


def checkpoint(texts):
    """A random T5 of the shape asked for, with a tokenizer of 32,000 words."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    special = ["<pad>", "</s>", "<unk>", "▁true", "▁false"]
    tokenizer.train_from_iterator(
        ["Query: Document: Relevant: true false", *texts],
        trainers.BpeTrainer(vocab_size=32_000, special_tokens=special[:3], show_progress=False),
    )
    tokenizer.post_processor = processors.TemplateProcessing("$A </s>", special_tokens=[("</s>", 1)])
    read = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="</s>", pad_token="<pad>", unk_token="<unk>", model_max_length=512
    )
    path = tempfile.mkdtemp()
    read.save_pretrained(path)
    width, key, inner, layers, heads = SHAPES[options.shape]
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=32_128, d_model=width, d_kv=key, d_ff=inner, num_layers=layers, num_heads=heads,
        decoder_start_token_id=0, pad_token_id=0, eos_token_id=1, n_positions=512,
    )  # fmt: skip
    T5ForConditionalGeneration(config).save_pretrained(path)
    return path


dataset = pt.get_dataset(f"folder:{options.collections / 'dl19'}")
frame = dataset.text_loader()(dataset.get_results("bm25")).merge(dataset.get_topics(), on="qid", suffixes=("", "_"))
frame = frame[["qid", "query", "docno", "text", "score", "rank"]].sample(frac=1, random_state=0).reset_index(drop=True)
path = checkpoint(frame["text"].tolist())

pyterrier_t5.T5Tokenizer = AutoTokenizer  # its own class takes sentencepiece models alone
theirs = pyterrier_t5.MonoT5ReRanker(tok_model=path, model=path, batch_size=1, verbose=False)
ours = {p: ptd.PointwiseTeacher(path, prompt="monot5", precision=p) for p in ("fp32", "bf16")}
asked = frame.head(200)
known = theirs(asked).set_index(["qid", "docno"])["score"]
apart = {}
for name, teacher in ours.items():
    scores = teacher(asked).set_index(["qid", "docno"])["score"].reindex(known.index)
    apart[name] = float(f"{(scores - known).abs().max():.3g}")


def turning(transformer, rows):
    place = [0]

    def one():
        start = place[0] % (len(frame) - rows)
        place[0] += rows
        transformer(frame.iloc[start : start + rows])
        return rows

    return one


systems = {"ours": turning(ours["fp32"], 32), "pyterrier_t5, batch 1": turning(theirs, 8)}
half = {"ours": turning(ours["bf16"], 64), "pyterrier_t5, batch 1": turning(theirs, 8)}
how = {"rounds": options.rounds, "block": options.block, "tries": options.tries}
report(
    {
        "what": f"random T5 of t5-{options.shape}'s shape, dl19's passages, 32 pairs a call (64 in bf16)",
        "pairs compared": len(asked),
        "standard deviation of scores": float(f"{known.std():.3g}"),
        "most apart": apart,
        "fp32": measure(systems, "ours", dtype="float32", **how),
        "ours in bf16, theirs in fp32": measure(half, "ours", **how),
    },
    options.out,
)
