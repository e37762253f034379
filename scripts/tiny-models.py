#!/usr/bin/env python3
"""Writes tiny models with random weights: architectures that no small file at hand has, for tests of the engine.

    tiny-models.py DIR      writes DIR/tiny-moe.gguf (a mixture of experts), DIR/tiny-minicpm.gguf, DIR/tiny-window.gguf
                            (attention over a sliding window), DIR/tiny-mamba.gguf (no attention, a running state),
                            DIR/tiny-bert.gguf (an encoder), DIR/tiny-reranker.gguf (one that ranks) and
                            DIR/tiny-minicpm-lora.gguf (an adapter)

They know nothing and weigh under 500 KB. The writer is the gguf package, so that the reader is tried on files of another hand.
"""

import sys
from pathlib import Path

import gguf
import numpy as np

# Heads of 32: keys and values can then be kept in blocks of eight bits, too.
WIDTH, HEADS, KV_HEADS, LAYERS, INNER, EXPERTS, CONTEXT = 64, 2, 1, 2, 32, 4, 2048
# Tokens that a layer of the sliding window sees; the state of the recurrent model.
WINDOW, STATE, CONVOLVED, STEP = 200, 8, 4, 4
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
    if architecture == "mamba":
        writer.add_feed_forward_length(0)
        writer.add_head_count(0)
        writer.add_ssm_conv_kernel(CONVOLVED)
        writer.add_ssm_inner_size(2 * WIDTH)
        writer.add_ssm_state_size(STATE)
        writer.add_ssm_time_step_rank(STEP)
    else:
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
    if architecture == "gemma3":
        writer.add_sliding_window(WINDOW)
        writer.add_key_length(WIDTH // HEADS)
        writer.add_value_length(WIDTH // HEADS)
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

    def ones(name, width=WIDTH):
        writer.add_tensor(name, np.ones(width, dtype=np.float32))

    add("token_embd.weight", len(tokens), WIDTH)
    if architecture != "gemma3":
        add("output.weight", len(tokens), WIDTH)
    ones("output_norm.weight")
    for i in range(LAYERS):
        if architecture == "mamba":
            recurrent(writer, random, add, ones, f"blk.{i}.")
        else:
            attention(add, ones, f"blk.{i}.", architecture == "gemma3", experts)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def attention(add, ones, layer, normed, experts):
    """A layer with attention; `normed` adds the norms that Gemma has."""
    head = WIDTH // HEADS
    ones(f"{layer}attn_norm.weight")
    ones(f"{layer}ffn_norm.weight")
    if normed:
        ones(f"{layer}attn_q_norm.weight", head)
        ones(f"{layer}attn_k_norm.weight", head)
        ones(f"{layer}post_attention_norm.weight")
        ones(f"{layer}post_ffw_norm.weight")
    add(f"{layer}attn_q.weight", HEADS * head, WIDTH)
    add(f"{layer}attn_k.weight", KV_HEADS * head, WIDTH)
    add(f"{layer}attn_v.weight", KV_HEADS * head, WIDTH)
    add(f"{layer}attn_output.weight", WIDTH, HEADS * head)
    if experts:
        add(f"{layer}ffn_gate_inp.weight", experts, WIDTH)
        add(f"{layer}ffn_gate_exps.weight", experts, INNER, WIDTH)
        add(f"{layer}ffn_up_exps.weight", experts, INNER, WIDTH)
        add(f"{layer}ffn_down_exps.weight", experts, WIDTH, INNER)
    else:
        add(f"{layer}ffn_gate.weight", INNER, WIDTH)
        add(f"{layer}ffn_up.weight", INNER, WIDTH)
        add(f"{layer}ffn_down.weight", WIDTH, INNER)


def recurrent(writer, random, add, ones, layer):
    """A layer of Mamba: all that it knows of the past is a state of fixed size."""
    inner = 2 * WIDTH
    ones(f"{layer}attn_norm.weight")
    add(f"{layer}ssm_in.weight", 2 * inner, WIDTH)
    add(f"{layer}ssm_x.weight", STEP + 2 * STATE, inner)
    add(f"{layer}ssm_dt.weight", inner, STEP)
    add(f"{layer}ssm_dt.bias", inner)
    add(f"{layer}ssm_conv1d.bias", inner)
    add(f"{layer}ssm_out.weight", WIDTH, inner)
    ones(f"{layer}ssm_d", inner)
    # llama.cpp wants these two in full precision. Small weights and a rate below zero: the state stays finite, and forgets.
    convolved = random.standard_normal((inner, CONVOLVED)) * 0.3
    writer.add_tensor(f"{layer}ssm_conv1d.weight", convolved.astype(np.float32))
    rate = -0.02 - 0.2 * np.abs(random.standard_normal((inner, STATE)))
    writer.add_tensor(f"{layer}ssm_a", rate.astype(np.float32))


def encoder(path, pooling):
    """Writes a BERT: it turns a text into a vector, and goes on with none."""
    random = np.random.default_rng(13)
    writer = gguf.GGUFWriter(str(path), "bert")
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    # A word begins with a mark in llama.cpp's files, where BERT's own mark what goes on.
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"] + ["\u2581" + letter for letter in letters] + letters
    writer.add_name(path.stem)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_layer_norm_eps(1e-12)
    writer.add_causal_attention(False)
    writer.add_pooling_type(pooling)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("bert")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.CONTROL if i < 5 else gguf.TokenType.NORMAL for i in range(len(tokens))])
    writer.add_token_type_count(2)
    writer.add_pad_token_id(0)
    writer.add_unk_token_id(1)
    writer.add_bos_token_id(2)
    writer.add_sep_token_id(3)
    writer.add_eos_token_id(3)
    writer.add_mask_token_id(4)

    def add(name, *shape):
        writer.add_tensor(name, (random.standard_normal(shape) * 0.3).astype(np.float16 if len(shape) > 1 else np.float32))

    def norm(name):
        writer.add_tensor(f"{name}.weight", np.ones(WIDTH, dtype=np.float32))
        add(f"{name}.bias", WIDTH)

    add("token_embd.weight", len(tokens), WIDTH)
    writer.add_tensor("position_embd.weight", (random.standard_normal((CONTEXT, WIDTH)) * 0.3).astype(np.float32))
    writer.add_tensor("token_types.weight", (random.standard_normal((2, WIDTH)) * 0.3).astype(np.float32))
    norm("token_embd_norm")
    for i in range(LAYERS):
        for part in ("attn_q", "attn_k", "attn_v", "attn_output"):
            add(f"blk.{i}.{part}.weight", WIDTH, WIDTH)
            add(f"blk.{i}.{part}.bias", WIDTH)
        norm(f"blk.{i}.attn_output_norm")
        add(f"blk.{i}.ffn_up.weight", INNER, WIDTH)
        add(f"blk.{i}.ffn_up.bias", INNER)
        add(f"blk.{i}.ffn_down.weight", WIDTH, INNER)
        add(f"blk.{i}.ffn_down.bias", WIDTH)
        norm(f"blk.{i}.layer_output_norm")
    if pooling == gguf.PoolingType.RANK:
        add("cls.weight", WIDTH, WIDTH)
        add("cls.bias", WIDTH)
        add("cls.output.weight", 1, WIDTH)
        add("cls.output.bias", 1)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def adapter(path, architecture):
    """Writes a low-rank adapter for the tiny model of this architecture: it turns the queries of the first layer."""
    random = np.random.default_rng(11)
    writer = gguf.GGUFWriter(str(path), architecture)
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", 4.0)
    rank = 2
    writer.add_tensor("blk.0.attn_q.weight.lora_a", random.standard_normal((rank, WIDTH)).astype(np.float32))
    writer.add_tensor("blk.0.attn_q.weight.lora_b", random.standard_normal((WIDTH, rank)).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main():
    if len(sys.argv) != 2:
        sys.exit("tiny-models.py DIR")
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    models = [
        ("tiny-moe", "llama", EXPERTS),
        ("tiny-minicpm", "minicpm", 0),
        ("tiny-window", "gemma3", 0),
        ("tiny-mamba", "mamba", 0),
    ]
    for name, architecture, experts in models:
        draft = folder / f".{name}.gguf"
        write(draft, architecture, experts)
        draft.rename(folder / f"{name}.gguf")
    for name, pooling in [("tiny-bert", gguf.PoolingType.MEAN), ("tiny-reranker", gguf.PoolingType.RANK)]:
        draft = folder / f".{name}.gguf"
        encoder(draft, pooling)
        draft.rename(folder / f"{name}.gguf")
    draft = folder / ".tiny-minicpm-lora.gguf"
    adapter(draft, "minicpm")
    draft.rename(folder / "tiny-minicpm-lora.gguf")


main()
