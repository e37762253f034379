#!/usr/bin/env python3
"""The speed of llama.cpp in other hands: llama-cpp-python's build, its C interface alone, with the same file.

    bench-peer.py FILE.gguf [THREADS [HEAD]]

Prints one JSON object: tokens a second of a prompt of 800 tokens (medians of seven), of one answer and of eight answers in one
batch (64 tokens each behind a prompt of HEAD tokens, greedy), and the milliseconds to load. Batch, context and threads are those of `galen model bench`.
"""

import ctypes
import json
import statistics
import sys
import time

import llama_cpp as c
import numpy as np

CONTEXT, BATCH, PROMPT, ANSWER, ROUNDS, SEQUENCES = 8192, 512, 800, 64, 7, 8


class Peer:
    """A model, a context and a batch."""

    def __init__(self, path, threads):
        began = time.perf_counter()
        c.llama_backend_init()
        self.model = c.llama_model_load_from_file(path.encode(), c.llama_model_default_params())
        if not self.model:
            sys.exit(f"bench-peer: {path} does not load")
        params = c.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch = CONTEXT, BATCH, BATCH
        params.n_threads = params.n_threads_batch = threads
        params.n_seq_max, params.kv_unified = SEQUENCES, True
        self.context = c.llama_init_from_model(self.model, params)
        self.batch = c.llama_batch_init(BATCH, 0, SEQUENCES)
        self.load_ms = (time.perf_counter() - began) * 1000
        self.vocabulary = c.llama_vocab_n_tokens(c.llama_model_get_vocab(self.model))

    def decode(self, rows):
        """Evaluates (token, position, sequence, wants logits)."""
        for i, (token, position, sequence, logits) in enumerate(rows):
            self.batch.token[i], self.batch.pos[i], self.batch.logits[i] = token, position, logits
            self.batch.n_seq_id[i], self.batch.seq_id[i][0] = 1, sequence
        self.batch.n_tokens = len(rows)
        if c.llama_decode(self.context, self.batch) != 0:
            sys.exit("bench-peer: llama.cpp could not evaluate a batch")

    def best(self, row):
        """The likeliest token."""
        logits = c.llama_get_logits_ith(self.context, row)
        address = ctypes.addressof(logits.contents)
        return int(np.frombuffer((ctypes.c_float * self.vocabulary).from_address(address), dtype=np.float32).argmax())

    def forget(self):
        """Empties the cache."""
        c.llama_memory_clear(c.llama_get_memory(self.context), True)

    def prompt(self, seed):
        """Tokens a second of one prompt."""
        tokens = [(seed * 7919 + i * 31) % 20_000 + 100 for i in range(PROMPT)]
        self.forget()
        began = time.perf_counter()
        for start in range(0, PROMPT, BATCH):
            piece = tokens[start : start + BATCH]
            self.decode([(t, start + i, 0, start + i + 1 == PROMPT) for i, t in enumerate(piece)])
        self.best(len(piece) - 1)
        return PROMPT / (time.perf_counter() - began)

    def answers(self, many, head):
        """Tokens a second of so many answers at once, each behind so many tokens."""
        self.forget()
        heads = [[(s * 97 + i * 13) % 20_000 + 100 for i in range(head)] for s in range(many)]
        tokens = []
        for s, text in enumerate(heads):
            self.decode([(t, i, s, i == head - 1) for i, t in enumerate(text)])
            tokens.append(self.best(head - 1))
        began = time.perf_counter()
        for step in range(ANSWER):
            self.decode([(t, head + step, s, True) for s, t in enumerate(tokens)])
            tokens = [self.best(s) for s in range(many)]
        return many * ANSWER / (time.perf_counter() - began)


def main():
    if len(sys.argv) not in (2, 3, 4):
        sys.exit("bench-peer.py FILE.gguf [THREADS [HEAD]]")

    @c.llama_log_callback
    def quiet(_level, _text, _data):
        pass

    c.llama_log_set(quiet, ctypes.c_void_p(0))
    peer = Peer(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 2)
    head = int(sys.argv[3]) if len(sys.argv) > 3 else 20
    peer.prompt(0)
    print(
        json.dumps(
            {
                "prefill_tps": statistics.median(peer.prompt(1 + i) for i in range(ROUNDS)),
                "decode_tps": statistics.median(peer.answers(1, head) for _ in range(ROUNDS)),
                "batch8_tps": statistics.median(peer.answers(SEQUENCES, head) for _ in range(ROUNDS)),
                "load_ms": peer.load_ms,
            }
        )
    )


main()
