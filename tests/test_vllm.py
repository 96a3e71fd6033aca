"""The vLLM backend against a stand-in with vLLM's interface, run by transformers; vLLM itself needs a GPU."""

import sys
import types
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

import pyterrier_distill as ptd


def stand_in():
    """A module ``vllm``: LLM, SamplingParams, StructuredOutputsParams, as far as the backend uses them."""
    module, params = types.ModuleType("vllm"), types.ModuleType("vllm.sampling_params")

    class SamplingParams:
        def __init__(
            self, temperature, max_tokens, logprobs=None, allowed_token_ids=None, structured_outputs=None, stop=(),
            seed=None, top_p=1.0, top_k=-1,
        ):  # fmt: skip
            assert temperature == 0 or seed is not None and 0 < top_p <= 1 and (top_k == -1 or top_k > 0)
            self.stop = stop
            self.max_tokens, self.logprobs, self.allowed = max_tokens, logprobs, allowed_token_ids
            self.choice = None if structured_outputs is None else structured_outputs.choice

    class LLM:
        def __init__(self, model, *, logprobs_mode, enable_prefix_caching, dtype, max_logprobs, **settings):
            from transformers import AutoModelForCausalLM, AutoTokenizer

            assert logprobs_mode == "processed_logprobs" and enable_prefix_caching and dtype == "float32"
            self.tokenizer = AutoTokenizer.from_pretrained(model)
            self.model = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
            self.llm_engine = SimpleNamespace(model_config=SimpleNamespace(max_model_len=2048))

        def get_tokenizer(self):
            return self.tokenizer

        @torch.inference_mode()
        def generate(self, prompts, params, use_tqdm):
            return [self._one(p["prompt_token_ids"], q) for p, q in zip(prompts, params)]

        def _one(self, ids, params):
            said, told = [], []
            choices = params.choice and [
                self.tokenizer(c, add_special_tokens=False)["input_ids"] for c in params.choice
            ]
            while len(said) < params.max_tokens:
                logits = self.model(torch.tensor([ids + said])).logits[0, -1]
                allowed = params.allowed
                if choices:
                    going = [c for c in choices if c[: len(said)] == said]
                    if any(len(c) == len(said) for c in going):
                        break
                    allowed = [c[len(said)] for c in going]
                if allowed:
                    mask = torch.full_like(logits, float("-inf"))
                    mask[allowed] = logits[allowed]
                    logits = mask
                logs = torch.log_softmax(logits, -1)
                if params.logprobs is not None:
                    best = logs.topk(max(1, params.logprobs))  # 0 tells the chosen one
                    pairs = zip(best.indices.tolist(), best.values.tolist())
                    told.append({token: SimpleNamespace(logprob=value) for token, value in pairs})
                said.append(int(logs.argmax()))
                if said[-1] == self.tokenizer.eos_token_id or any(
                    end in self.tokenizer.decode(said) for end in params.stop
                ):
                    break
            text = self.tokenizer.decode(said, skip_special_tokens=True)
            return SimpleNamespace(outputs=[SimpleNamespace(text=text, logprobs=told, token_ids=said)])

    class StructuredOutputsParams:
        def __init__(self, choice):
            self.choice = choice

    module.LLM, module.SamplingParams = LLM, SamplingParams
    params.StructuredOutputsParams = StructuredOutputsParams
    return module, params


@pytest.fixture
def backends(tiny_llm, monkeypatch):
    module, params = stand_in()
    monkeypatch.setitem(sys.modules, "vllm", module)
    monkeypatch.setitem(sys.modules, "vllm.sampling_params", params)
    return ptd.VLLM(tiny_llm, precision="fp32"), ptd.HF(tiny_llm, precision="fp32", device="cpu")


def lists(depth, queries):
    rows = [(f"q{q}", f"query {q}", f"d{i}", f"{i} red dog", i) for q in range(queries) for i in range(depth)]
    return pd.DataFrame(rows, columns=["qid", "query", "docno", "text", "rank"])


def test_it_chooses_as_transformers_does(backends):
    vllm, hf = backends
    prompts = [[{"role": "user", "content": f"red {i}"}] for i in range(4)] + [[{"role": "user", "content": "dog"}]]
    np.testing.assert_allclose(vllm.choose(prompts, ["No", "Yes"]), hf.choose(prompts, ["No", "Yes"]), atol=1e-4)
    assert vllm.context == hf.context == 2048 and vllm.prompt_sizes(prompts) == hf.prompt_sizes(prompts)
    assert vllm.usage.calls == 5 and vllm.choose([], ["a", "b"]).shape == (0, 2)
    plain = ["Query: dog Document: red"]
    np.testing.assert_allclose(vllm.choose(plain, ["no", "yes"]), hf.choose(plain, ["no", "yes"]), atol=1e-4)


def test_it_labels_as_transformers_does(backends):
    vllm, hf = backends
    frame = lists(4, 2)
    for teacher in (ptd.PairwiseTeacher, ptd.PointwiseTeacher, ptd.SetwiseTeacher):
        mine, theirs = teacher(vllm)(frame), teacher(hf)(frame)
        np.testing.assert_allclose(mine["score"], theirs["score"], atol=1e-4)
    assert ptd.PointwiseTeacher(vllm)(frame).columns.tolist().count("teacher_logits") == 0


def test_held_to_permutations_it_cannot_go_wrong(backends):
    vllm, _ = backends
    teacher = ptd.ListwiseLLMTeacher(vllm, window_size=5, stride=3, constrained=True)
    out = teacher(lists(8, 3))
    assert teacher.responses == {"ok": 6, "wrong_format": 0, "repetition": 0, "missing": 0}
    assert (out.groupby("qid")["teacher_rank"].agg(sorted).map(tuple) == tuple(range(8))).all()
    assert vllm.usage.calls == 6 * 5  # an identifier each


def test_it_writes_queries_as_transformers_does(backends, plain_llm):
    vllm, hf = ptd.VLLM(plain_llm, precision="fp32"), ptd.HF(plain_llm, precision="fp32", device="cpu")
    frame = lists(8, 1)[["docno", "text"]]
    mine, theirs = (ptd.SyntheticQueryGen(llm, max_new_tokens=8)(frame) for llm in (vllm, hf))
    assert mine["querygen"].tolist() == theirs["querygen"].tolist() and (mine["querygen"] != "").any()
    np.testing.assert_allclose(np.stack(mine["querygen_score"]), np.stack(theirs["querygen_score"]), atol=1e-4)
    drawn = ptd.SyntheticQueryGen(vllm, "Ask about {document}", n=2, top_k=5, max_new_tokens=4)(frame)
    assert drawn["querygen"].map(len).sum() > 0


def test_without_vllm_it_says_how_to_install_it(tiny_llm, monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(ModuleNotFoundError, match=r"pyterrier-distill\[vllm\]"):
        ptd.ListwiseLLMTeacher(tiny_llm, backend="vllm")(lists(2, 1))
