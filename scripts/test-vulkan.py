#!/usr/bin/env python3
"""Asks a model's process the same on a device and on the CPU, and compares what they say.

    test-vulkan.py WORKER FILE.gguf LARGEST [--text-may-differ] FLAGS...

LARGEST: nats that a score may differ by. FLAGS: where the model goes. The generated texts must be the same, unless said otherwise.
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
MAY_DIFFER = "--text-may-differ"
# Mesa 22.3's software driver ends the process by a bad access of its own now and then, with mixtures mostly; with operations
# fused in most runs of one kind, without in most runs of the other.
TRIES = 20


def answers(worker, model, flags, tries=TRIES, found=None):
    """Text, scores and vector; the process gets its input closed when all are there. What was answered before the driver ended it
    is not asked again."""
    found = found or {}
    lines = "".join(json.dumps({"ask": {"id": i, "task": task}}) + "\n" for i, task in enumerate(TASKS) if i not in found)
    arguments = [worker, "--model", model, "--context", "512", "--threads", "2", *flags]
    surroundings = {**os.environ, **({"GGML_VK_DISABLE_FUSION": "1"} if tries % 2 else {})}
    process = subprocess.Popen(arguments, env=surroundings, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        process.stdin.write(lines)
        process.stdin.flush()
        for line in process.stdout:
            message = json.loads(line)
            # Signs of life are plain words.
            answer = message.get("answer") if isinstance(message, dict) else None
            if answer:
                ((_, value),) = answer["result"]["Ok"].items()
                found[answer["id"]] = value
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
            return answers(worker, model, flags, tries - 1, found)
        sys.exit(f"test-vulkan: {' '.join(flags)}: {len(found)} answers, not {len(TASKS)}, exit {process.returncode}")
    if tries < TRIES:
        print(f"{' '.join(flags)}: the driver ended the process {TRIES - tries} times before", file=sys.stderr)
    return found[0]["text"], found[1]["logprobs"], found[2]["vectors"][0]


def difference(device, cpu):
    """Nothing for two texts that are the same; else both, from where they part."""
    if device == cpu:
        return ""
    at = len(os.path.commonprefix([device, cpu]))
    return f"the texts differ from character {at} on: {device[at:]!r} on the device, {cpu[at:]!r} on the CPU, after {cpu[:at]!r}"


def main():
    if len(sys.argv) < 4:
        sys.exit("test-vulkan.py WORKER FILE.gguf LARGEST [--text-may-differ] FLAGS...")
    worker, model, largest, *flags = sys.argv[1:]
    may_differ = flags[:1] == [MAY_DIFFER]
    flags = flags[1:] if may_differ else flags
    # The last word on a flag counts: everything else is the same on the CPU.
    device, cpu = answers(worker, model, flags), answers(worker, model, [*flags, "--gpu-layers", "0", "--cpu-experts", "0"])
    score = max(abs(a - b) for a, b in zip(device[1], cpu[1]))
    cosine = sum(a * b for a, b in zip(device[2], cpu[2]))
    text = difference(device[0], cpu[0])
    told = f"{text or 'the same text'}; scores within {score:.4f} nats; cosine of the vectors {cosine:.5f}"
    print(f"{' '.join(flags)}: {told}", file=sys.stderr)
    # A number that is none compares as false, so what is wanted is asked for.
    wrong = [
        *([] if score <= float(largest) else [f"scores differ by {score:.4f} nats: {device[1]} on the device, {cpu[1]} on the CPU"]),
        *([] if cosine >= 0.99 else [f"the vectors' cosine is {cosine:.5f}"]),
        *([text] if text and not may_differ else []),
    ]
    if wrong:
        sys.exit(f"test-vulkan: the device answers otherwise than the CPU: {'; '.join(wrong)}")


main()
