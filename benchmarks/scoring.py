"""Scoring and encoding in bf16: how many times as fast as sentence-transformers' best batch, and what it costs.

Cross-encoder pairs of about 80 and 140 tokens (dl19's passages, alone and two of them), of vaswani and of nfcorpus;
documents of vaswani and nfcorpus encoded. sentence-transformers may hold its weights in bf16 or run under autocast,
with batches of 8, 16, 32 or 64; the best two in a trial are measured in turns with ours. With ``--quality``, nDCG@10 on
dl19 and dl20 in fp32 and in bf16, and how far scores are apart.
"""

import argparse
import random
import time
from pathlib import Path

from common import report
from harness import measure, summary

parser = argparse.ArgumentParser()
parser.add_argument("--model", default=None, help="a cross-encoder; one that was trained, for --quality")
parser.add_argument("--encoder", default=None, help="a bi-encoder; default: all-MiniLM-L6-v2")
parser.add_argument("--collections", type=Path, required=True, help="of BEIR folders; others come from ir_datasets")
parser.add_argument("--rounds", type=int, default=20)
parser.add_argument("--tries", type=int, default=3)
parser.add_argument("--block", type=float, default=0.5)
parser.add_argument("--texts", type=int, default=128, help="of a call")
parser.add_argument("--threads", type=int, default=0, help="of all systems; default: torch's own number")
parser.add_argument("--processor", action="store_true", help="seconds of the processor alone, for a busy machine")
parser.add_argument("--only", default="", help="names of what is measured, between commas; default: all")
parser.add_argument("--quality", action="store_true")
parser.add_argument("--profile", action="store_true", help="where the time of a call goes")
parser.add_argument("--out")
options = parser.parse_args()

import ir_measures  # noqa: E402
import numpy as np  # noqa: E402
import pyterrier as pt  # noqa: E402
import torch  # noqa: E402
from ir_measures import nDCG  # noqa: E402
from sentence_transformers import CrossEncoder, SentenceTransformer  # noqa: E402

import pyterrier_distill as ptd  # noqa: E402
from pyterrier_distill.demo.distil import default_teacher  # noqa: E402

if options.threads:
    torch.set_num_threads(options.threads)
IRDS = {"nfcorpus": "beir/nfcorpus/test"}
model = options.model or default_teacher()
encoder = options.encoder or default_teacher()


def dataset(name):
    there = (options.collections / name).is_dir()
    return pt.get_dataset(f"folder:{options.collections / name}" if there else f"irds:{IRDS.get(name, name)}")


def documents(name, most=3000):
    found = [d["text"] for d in dataset(name).get_corpus_iter(verbose=False)]
    return random.Random(0).sample(found, min(most, len(found)))


def pairs(name, join=1, most=3000):
    draw, texts = random.Random(1), documents(name)
    queries = dataset(name).get_topics()["query"].tolist()
    return [(draw.choice(queries), " ".join(draw.choices(texts, k=join))) for _ in range(most)]


def flop(module, tokens):
    """Of an input of so many tokens: two a weight of its layers and token, and attention."""
    config = module.config
    layers = [m for n, m in module.named_modules() if isinstance(m, torch.nn.Linear) and ".layer." in n]
    attention = 4 * config.num_hidden_layers * config.hidden_size * tokens * tokens
    return 2 * tokens * sum(layer.weight.numel() for layer in layers) + attention


def turning(work, inputs):
    """A function that works on the next inputs at each call."""
    place = [0]

    def one():
        start = place[0] % (len(inputs) - options.texts)
        place[0] += options.texts
        work(inputs[start : start + options.texts])
        return options.texts

    return one


def peers(kind, path, call):
    """sentence-transformers with each dtype and batch size."""
    keys = {"max_length": 256} if kind is CrossEncoder else {}
    labels = {"num_labels": 1} if kind is CrossEncoder else {}
    half = kind(path, device="cpu", model_kwargs={"dtype": torch.bfloat16}, **keys, **labels)
    full = kind(path, device="cpu", **keys, **labels)

    def cast(chunk, size):
        with torch.autocast("cpu", torch.bfloat16):
            call(full, chunk, size)

    for size in (8, 16, 32, 64):
        yield f"sentence-transformers bf16, batch {size}", lambda chunk, size=size: call(half, chunk, size)
        yield f"sentence-transformers autocast, batch {size}", lambda chunk, size=size: cast(chunk, size)


def best(systems, inputs, keep=2):
    """The fastest of these in a trial."""
    clock, seconds = time.process_time if options.processor else time.perf_counter, {}
    for name, work in systems.items():
        work(inputs[:8])
        began = clock()
        work(inputs[: options.texts])
        seconds[name] = clock() - began
    return sorted(systems, key=seconds.get)[:keep]


def processor_time(systems):
    """The same in one thread and by seconds of the processor, which others on the machine change little."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    seconds = {name: [] for name in systems}
    for turn in range(options.rounds + 1):
        for name, work in systems.items():
            began = time.process_time()
            done = work()
            if turn:
                seconds[name].append((time.process_time() - began) / done)
    torch.set_num_threads(threads)
    ours = seconds.pop("ours")
    return {name: summary([t / o for t, o in zip(theirs, ours, strict=True)]) for name, theirs in seconds.items()}


def compared(what):
    if what.startswith("encode"):
        inputs = documents(what.split()[1])
        student = ptd.BiEncoder(encoder, precision="bf16", device="cpu")
        ours, read = student.encode_docs, student.tokenise(inputs[:300], "document")
        call = lambda m, chunk, size: m.encode(chunk, batch_size=size, show_progress_bar=False)  # noqa: E731
        found = dict(peers(SentenceTransformer, encoder, call))
    else:
        name, join = {"80 tokens": ("dl19", 1), "140 tokens": ("dl19", 2)}.get(what, (what.split()[-1], 1))
        inputs = pairs(name, join)
        student = ptd.CrossEncoder(model, max_length=256, precision="bf16", device="cpu")
        ours, read = student.scores, student.features(inputs[:300])
        call = lambda m, chunk, size: m.predict(chunk, batch_size=size, show_progress_bar=False)  # noqa: E731
        found = dict(peers(CrossEncoder, model, call))
    tokens = read["attention_mask"].sum(dim=1).float()
    systems = {"ours": ours, **{name: found[name] for name in best(found, inputs)}}
    each = float(np.mean([flop(student.model[0].auto_model, int(n)) for n in tokens]))
    if options.profile:
        profile(ours, inputs)
    told = {"mean tokens": round(float(tokens.mean()), 1), "FLOP of an input": float(f"{each:.3g}")}
    if options.processor:
        told["times as fast as, in processor time of one thread"] = processor_time(
            {name: turning(work, inputs) for name, work in systems.items()}
        )
        return told
    told |= measure(
        {name: turning(work, inputs) for name, work in systems.items()}, "ours", rounds=options.rounds,
        block=options.block, flop=dict.fromkeys(systems, each), tries=options.tries,
    )  # fmt: skip
    return told


def profile(work, inputs):
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as record

    work(inputs[: options.texts])
    with record(activities=[ProfilerActivity.CPU]) as seen:
        work(inputs[: options.texts])
    print(seen.key_averages().table(sort_by="self_cpu_time_total", row_limit=15, max_name_column_width=40))


def quality():
    told = {}
    students = {p: ptd.CrossEncoder(model, precision=p, device="cpu") for p in ("fp32", "bf16")}
    for name in ("dl19", "dl20"):
        source = dataset(name)
        frame = source.text_loader()(source.get_results("bm25"))
        asked = list(zip(frame["query"], frame["text"], strict=True))
        scores = {p: student.scores(asked) for p, student in students.items()}
        qrels = source.get_qrels().rename(columns={"qid": "query_id", "docno": "doc_id", "label": "relevance"})
        run = frame[["qid", "docno"]].rename(columns={"qid": "query_id", "docno": "doc_id"})
        apart = abs(scores["fp32"] - scores["bf16"])
        told[name] = {
            "pairs": len(frame),
            "nDCG@10": {
                p: round(ir_measures.calc_aggregate([nDCG @ 10], qrels, run.assign(score=s))[nDCG @ 10], 5)
                for p, s in scores.items()
            },
            "distinct scores": {p: len(np.unique(s)) for p, s in scores.items()},
            "standard deviation of scores": round(float(scores["fp32"].std()), 3),
            "difference of scores": {"mean": round(float(apart.mean()), 4), "most": round(float(apart.max()), 4)},
        }
    return told


ALL = ("80 tokens", "140 tokens", "pairs of vaswani", "pairs of nfcorpus", "encode vaswani", "encode nfcorpus")
chosen = [name.strip() for name in options.only.split(",") if name.strip()] or ALL
named = "/".join(Path(model).parts[-2:])
result = {"what": f"bf16 on a CPU, {options.texts} inputs a call, cross-encoder {named}"}
for one in chosen:
    if one != "none":
        result[one] = compared(one)
        report(result, options.out)
if options.quality:
    result["quality"] = quality()
    report(result, options.out)
