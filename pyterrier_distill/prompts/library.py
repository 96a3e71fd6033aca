"""The prompts that teachers know by name, as their papers or projects print them."""

from __future__ import annotations

from . import Template

#: Is this document relevant?
POINTWISE: dict[str, Template] = {
    # Nogueira et al. 2020; InRanker uses it too.
    "monot5": Template((("user", "Query: {query} Document: {document} Relevant:"),), ("false", "true"), plain=True),
    # PairDistill App. C.1, after Huang and Chen 2024.
    "yes_no": Template(
        (("user", "Is the document relevant to the query (Yes or No)?\nQuery: {query}\nDocument: {document}"),),
        ("No", "Yes"),
    ),
    # The format that Qwen3-Reranker was trained with.
    "qwen3": Template(
        (
            (
                "user",
                "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct"
                ' provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n<Instruct>: Given'
                " a web search query, retrieve relevant passages that answer the query\n<Query>: {query}\n"
                "<Document>: {document}<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
            ),
        ),
        ("no", "yes"),
        plain=True,
    ),
}

#: What query does this passage make likely? The query follows the prompt.
LIKELIHOOD: dict[str, Template] = {
    # Sachan et al. 2022, UPR (upr.py of their repository: a head, the passage, a full stop, the instruction).
    "upr": Template((("user", "Passage: {document}. Please write a question based on this passage."),), plain=True),
}

#: Which of two documents is more relevant?
PAIRWISE: dict[str, Template] = {
    # Pradeep et al. 2021; "true" = document 0 is the more relevant one.
    "duot5": Template(
        (("user", "Query: {query} Document0: {document_a} Document1: {document_b} Relevant:"),),
        ("false", "true"),
        plain=True,
    ),
    # PairDistill App. C.1, which prints one document only.
    "ab": Template(
        (
            (
                "user",
                "Which document is more relevant to the query?\nAnswer only 'A' or 'B'.\nQuery: {query}\n"
                "Document A: {document_a}\nDocument B: {document_b}",
            ),
        ),
        ("B", "A"),
    ),
}

_RANKGPT_END = (
    "Search Query: {query}. \nRank the {num} passages above based on their relevance to the search query. The passages"
    " should be listed in descending order using identifiers. The most relevant passages should be listed first. The"
    " output format should be [] > [], e.g., [1] > [2]. Only response the ranking results, do not say any word or explain."
)

#: In which order of relevance do these passages stand?
LISTWISE: dict[str, Template] = {
    # Sun et al. 2023.
    "rankgpt": Template(
        (
            (
                "system",
                "You are RankGPT, an intelligent assistant that can rank passages based on their relevancy to the query.",
            ),
            (
                "user",
                "I will provide you with {num} passages, each indicated by number identifier []. \nRank the passages based"
                " on their relevance to query: {query}.",
            ),
            ("assistant", "Okay, please provide the passages."),
            ("user", "[{id}] {text}"),
            ("assistant", "Received passage [{id}]."),
            ("user", _RANKGPT_END),
        )
    ),
    # Pradeep et al. 2023, RankZephyr.
    "rankzephyr": Template(
        (
            (
                "system",
                "You are RankLLM, an intelligent assistant that can rank passages based on their relevancy to the query",
            ),
            (
                "user",
                "I will provide you with {num} passages, each indicated by a numerical identifier []. Rank the passages"
                " based on their relevance to the search query: {query}.\n\n{passages}\n\nSearch Query: {query}.\nRank the"
                " {num} passages above based on their relevance to the search query. All the passages should be included"
                " and listed using identifiers, in descending order of relevance. The output format should be [] > [],"
                " e.g., [2] > [1], Answer concisely and directly and only respond with the ranking results, do not say any"
                " word or explain.",
            ),
        )
    ),
}

#: Which of these passages is the most relevant?
SETWISE: dict[str, Template] = {
    # Zhuang et al. 2023, Setwise prompting.
    "setwise": Template(
        (
            (
                "user",
                'Given a query "{query}", which of the following passages is the most relevant one to the query?\n\n'
                "{passages}\n\nOutput only the passage label of the most relevant passage:",
            ),
        ),
        line='Passage {id}: "{text}"',
    ),
}


def labelled_pairs(document: str, query: str, *, numbered: bool = False) -> Template:
    """A few-shot prompt in which documents and queries stand behind words of their task (Promptagator).

    Args:
        document: what stands before a document, such as ``"Argument"``.
        query: what stands before a query, such as ``"Counter Argument"``.
        numbered: whether ``Example 1:`` and so on stand above each pair.
    """
    head = "Example {id}:\n" if numbered else ""
    line = f"{head}{document}: {{document}}\n{query}: {{query}}"
    last = line.replace("{id}", "{next}").removesuffix(" {query}")
    return Template((("user", f"{{examples}}\n\n{last}"),), line=line, plain=True)


#: What would somebody ask whom this document answers?
QUERIES: dict[str, Template] = {
    # Bonifacio et al. 2022, InPars v1; InRanker's queries were made with it.
    "inpars": labelled_pairs("Document", "Relevant Query", numbered=True),
    # Bonifacio et al. 2022, "guided by bad questions".
    "gbq": Template(
        (("user", "{examples}\n\nExample {next}:\nDocument: {document}\nGood Question:"),),
        line="Example {id}:\nDocument: {document}\nGood Question: {query}\nBad Question: {bad}",
        plain=True,
    ),
    # Dai et al. 2023, Promptagator, who name document and query after the task: labelled_pairs("Article", "Question").
    "promptagator": labelled_pairs("Passage", "Query"),
    # Nogueira and Lin 2019: an encoder-decoder trained for it reads the document alone.
    "doc2query": Template((("user", "{document}"),), plain=True),
}

#: Digests of the prompts of which stores that were written so far hold the name alone. A prompt with another text, or
#: one that is not here, is identified by its text: what was answered to the old one is no answer to it.
TOLD_BY_NAME = {
    "monot5": "821e7935229faf89",
    "yes_no": "b1d0e59777d47b7b",
    "qwen3": "52a8acb0e92b2e52",
    "duot5": "041746350104f435",
    "ab": "c8b27316a8de27ef",
}
