#!/usr/bin/env python3
"""Asks a model's process the same on a device and on the CPU, and compares what they say.

    test-vulkan.py WORKER FILE.gguf LARGEST FLAGS...     LARGEST: nats that a score may differ by; FLAGS: where the model goes
"""

import json
import os
import signal
import subprocess
import sys

PROMPT = {"shared": "You are a PostgreSQL expert.", "own": "What is a lock?"}
TASKS = [
    {"generate": {"agent": "t", "prompt": PROMPT, "grammar": None, "max_tokens": 6}},
    {"score": {"agent": "t", "prompt": PROMPT, "options": ["a queue", "a thing that waits", "a table"]}},
    {"embed": {"agent": "t", "texts": ["sessions wait"]}},
]
PATIENCE_S = 300
# Mesa 22.3's software driver ends the process by a bad access of its own now and then, with mixtures mostly; with operations
# fused in most runs of one kind, without in most runs of the other.
TRIES = 20


def answers(worker, model, flags, tries=TRIES):
    """Text, scores and vector; the process gets its input closed when all are there."""
    lines = "".join(json.dumps({"ask": {"id": i, "task": task}}) + "\n" for i, task in enumerate(TASKS))
    arguments = [worker, "--model", model, "--context", "512", "--threads", "2", *flags]
    surroundings = {**os.environ, **({"GGML_VK_DISABLE_FUSION": "1"} if tries % 2 else {})}
    process = subprocess.Popen(arguments, env=surroundings, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    found = {}
    try:
        process.stdin.write(lines)
        process.stdin.flush()
        for line in process.stdout:
            answer = json.loads(line).get("answer")
            if answer:
                ((kind, value),) = answer["result"]["Ok"].items()
                found[kind] = value
            if len(found) == len(TASKS):
                break
    finally:
        process.stdin.close()
        try:
            process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            process.kill()
    if len(found) != len(TASKS):
        if tries > 1 and process.returncode == -signal.SIGSEGV:
            return answers(worker, model, flags, tries - 1)
        sys.exit(f"test-vulkan: {' '.join(flags)}: {len(found)} answers, not {len(TASKS)}, exit {process.returncode}")
    if tries < TRIES:
        print(f"{' '.join(flags)}: the driver ended the process {TRIES - tries} times before", file=sys.stderr)
    return found["generated"]["text"], found["scores"]["logprobs"], found["embeddings"]["vectors"][0]


def main():
    worker, model, largest, *flags = sys.argv[1:]
    # The last word on a flag counts: everything else is the same on the CPU.
    device, cpu = answers(worker, model, flags), answers(worker, model, [*flags, "--gpu-layers", "0", "--cpu-experts", "0"])
    score = max(abs(a - b) for a, b in zip(device[1], cpu[1]))
    cosine = sum(a * b for a, b in zip(device[2], cpu[2]))
    text = "the same text" if device[0] == cpu[0] else f"{device[0]!r} and {cpu[0]!r}"
    print(f"{' '.join(flags)}: {text}; scores within {score:.4f} nats; cosine of the vectors {cosine:.5f}", file=sys.stderr)
    if score > float(largest) or cosine < 0.99:
        sys.exit("test-vulkan: the device answers otherwise than the CPU")


main()
