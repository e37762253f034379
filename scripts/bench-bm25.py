#!/usr/bin/env python3
"""Python's rank_bm25 on the chunks and questions that `galen bench retrieval --export DIR` wrote.

    pip install rank_bm25
    scripts/bench-bm25.py DIR
"""
import json
import re
import sys
import time

from rank_bm25 import BM25Okapi


def words(text):
    return re.findall(r"\w+", text.lower())


def lines(path):
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def main(folder):
    chunks, questions = lines(f"{folder}/chunks.jsonl"), lines(f"{folder}/questions.jsonl")
    started = time.perf_counter()
    index = BM25Okapi([words(chunk["text"]) for chunk in chunks])
    built = time.perf_counter() - started
    ranks, micros = [], []
    for question in questions:
        started = time.perf_counter()
        scores = index.get_scores(words(question["q"]))
        best = sorted(range(len(chunks)), key=lambda at: -scores[at])[:10]
        micros.append((time.perf_counter() - started) * 1e6)
        right = set(question["right"])
        ranks.append(next((rank for rank, at in enumerate(best, 1) if chunks[at]["id"] in right), None))
    micros.sort()

    def figures(kept):
        return {
            "questions": len(kept),
            **{f"recall@{n}": round(sum(r is not None and r <= n for r in kept) / max(len(kept), 1), 3) for n in (1, 5, 10)},
            "mrr": round(sum(1 / r for r in kept if r) / max(len(kept), 1), 3),
        }

    hand = [rank for rank, question in zip(ranks, questions) if question["by_hand"]]
    print(json.dumps({
        "suite": "retrieval", "way": "rank_bm25", "chunks": len(chunks), **figures(ranks), "by_hand": figures(hand),
        "index_s": round(built, 2), "p50_us": round(micros[len(micros) // 2]), "p99_us": round(micros[int(len(micros) * 0.99)]),
    }))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
