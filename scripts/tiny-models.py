#!/usr/bin/env python3
"""Writes tiny models with random weights: architectures that no small file at hand has, for tests of the engine.

    tiny-models.py DIR      writes DIR/tiny-moe.gguf (a mixture of experts) and DIR/tiny-minicpm.gguf

They know nothing and weigh under 250 KB. The writer is the gguf package, so that the reader is tried on files of another hand.
"""

import sys
from pathlib import Path

import gguf
import numpy as np

# Heads of 32: keys and values can then be kept in blocks of eight bits, too.
WIDTH, HEADS, KV_HEADS, LAYERS, INNER, EXPERTS, CONTEXT = 64, 2, 1, 2, 32, 4, 2048
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
# One merge a line: enough that tokens are not all single bytes.
MERGES = ["a n", "o r", "e r", "an d", "t h", "th e"]
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def bytes_as_letters():
    """A printable letter for each byte, in the order in which byte-level tokenizers number them."""
    plain = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    letters = {b: chr(b) for b in plain}
    for b in range(256):
        if b not in letters:
            letters[b] = chr(256 + len(letters) - len(plain))
    return [letters[b] for b in range(256)]


def write(path, architecture, experts):
    """Writes one model."""
    random = np.random.default_rng(7)
    writer = gguf.GGUFWriter(str(path), architecture)
    tokens = bytes_as_letters() + [m.replace(" ", "") for m in MERGES] + SPECIAL
    writer.add_name(path.stem)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens))
    if experts:
        writer.add_expert_count(experts)
        writer.add_expert_used_count(2)
    if architecture == "minicpm":
        writer.add_embedding_scale(12.0)
        writer.add_residual_scale(0.99)
        writer.add_logit_scale(0.125)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    normal, control = gguf.TokenType.NORMAL, gguf.TokenType.CONTROL
    writer.add_token_types([control if t in SPECIAL else normal for t in tokens])
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(tokens.index("<|im_start|>"))
    writer.add_eos_token_id(tokens.index("<|im_end|>"))
    writer.add_add_bos_token(False)
    writer.add_chat_template(TEMPLATE)

    def add(name, *shape):
        # numpy counts dimensions the other way round.
        writer.add_tensor(name, (random.standard_normal(shape) * 0.3).astype(np.float16 if len(shape) > 1 else np.float32))

    def ones(name):
        writer.add_tensor(name, np.ones(WIDTH, dtype=np.float32))

    head = WIDTH // HEADS
    add("token_embd.weight", len(tokens), WIDTH)
    add("output.weight", len(tokens), WIDTH)
    ones("output_norm.weight")
    for i in range(LAYERS):
        ones(f"blk.{i}.attn_norm.weight")
        ones(f"blk.{i}.ffn_norm.weight")
        add(f"blk.{i}.attn_q.weight", HEADS * head, WIDTH)
        add(f"blk.{i}.attn_k.weight", KV_HEADS * head, WIDTH)
        add(f"blk.{i}.attn_v.weight", KV_HEADS * head, WIDTH)
        add(f"blk.{i}.attn_output.weight", WIDTH, HEADS * head)
        if experts:
            add(f"blk.{i}.ffn_gate_inp.weight", experts, WIDTH)
            add(f"blk.{i}.ffn_gate_exps.weight", experts, INNER, WIDTH)
            add(f"blk.{i}.ffn_up_exps.weight", experts, INNER, WIDTH)
            add(f"blk.{i}.ffn_down_exps.weight", experts, WIDTH, INNER)
        else:
            add(f"blk.{i}.ffn_gate.weight", INNER, WIDTH)
            add(f"blk.{i}.ffn_up.weight", INNER, WIDTH)
            add(f"blk.{i}.ffn_down.weight", WIDTH, INNER)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main():
    if len(sys.argv) != 2:
        sys.exit("tiny-models.py DIR")
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, architecture, experts in [("tiny-moe", "llama", EXPERTS), ("tiny-minicpm", "minicpm", 0)]:
        draft = folder / f".{name}.gguf"
        write(draft, architecture, experts)
        draft.rename(folder / f"{name}.gguf")


main()
