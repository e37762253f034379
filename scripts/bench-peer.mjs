// The speed of llama.cpp in other hands, for `make bench-engine`: node-llama-cpp with the same file, threads and batch.
//
//   node bench-peer.mjs FILE.gguf THREADS     prints one JSON line: tokens a second
import { getLlama } from "node-llama-cpp";

const [file, threads] = [process.argv[2], Number(process.argv[3] ?? 2)];
const PROMPT = 800, ANSWER = 64, MANY = 8, ROUNDS = 7;

const llama = await getLlama({ gpu: false, build: "never", logLevel: "error" });
const model = await llama.loadModel({ modelPath: file });
const context = await model.createContext({ sequences: MANY, contextSize: 2048, batchSize: 512, threads });
const sequences = Array.from({ length: MANY }, () => context.getSequence());
const median = (values) => values.sort((a, b) => a - b)[values.length >> 1];

// Lines whose beginning no two calls have in common.
function words(seed, tokens) {
  let text = "";
  for (let i = 0; i < tokens / 4; i++) text += `${seed * 1000 + i}: ${((seed * 31 + i * 7) % 90) + 10} sessions wait for a lock\n`;
  return model.tokenize(text).slice(0, tokens);
}

// Evaluates a prompt and `count` tokens of an answer, greedily. Returns seconds to the first token and to the last.
async function answer(sequence, prompt, count) {
  await sequence.clearHistory();
  const began = performance.now();
  let first = 0, made = 0;
  for await (const _ of sequence.evaluate(prompt, { temperature: 0, yieldEogToken: true })) {
    if (made++ === 0) first = performance.now();
    if (made > count) break;
  }
  return [(first - began) / 1000, (performance.now() - first) / 1000];
}

const prefill = [], decode = [], batched = [];
for (let round = 0; round < ROUNDS; round++) {
  const [prompt] = await answer(sequences[0], words(round + 1, PROMPT), ANSWER);
  prefill.push(PROMPT / prompt);

  const [, alone] = await answer(sequences[0], words(round + 50, 30), ANSWER);
  decode.push(ANSWER / alone);
  // Prompts first, so that what is timed are answers alone.
  const streams = sequences.map((s, i) => [s, words(100 + round * MANY + i, 30)]);
  const iterators = [];
  for (const [s, prompt] of streams) {
    await s.clearHistory();
    const iterator = s.evaluate(prompt, { temperature: 0, yieldEogToken: true })[Symbol.asyncIterator]();
    await iterator.next();
    iterators.push(iterator);
  }
  const began = performance.now();
  await Promise.all(iterators.map(async (iterator) => { for (let i = 0; i < ANSWER; i++) await iterator.next(); }));
  batched.push((MANY * ANSWER) / ((performance.now() - began) / 1000));
  for (const iterator of iterators) await iterator.return?.();
}
console.log(JSON.stringify({ prefill_tps: median(prefill), decode_tps: median(decode), batch8_tps: median(batched) }));
process.exit(0);
