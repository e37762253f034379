//! How a model is spread over a GPU and main memory: layers, the experts of mixtures, the cache of keys and values. Computed
//! from the file's header and a memory budget, before anything is loaded.

use std::fmt;

use serde::Serialize;

use super::engine::{SHORT_CHUNK, SHORT_CONTEXT};
use super::gguf::Header;
use super::offload::{Cache, Offload};

/// Tokens evaluated in one piece; llama.cpp's default of a micro-batch.
const PIECE: u64 = 512;
/// What a driver takes for itself before the first byte of a model.
const DRIVER: u64 = 256 << 20;
/// Values in a block of the eight-bit cache.
const BLOCK: u64 = 32;
/// Layers more on the GPU that make it worth to keep keys and values with eight bits.
const WORTH_IT: u64 = 2;

/// Where the parts of a model go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// Layers of the model, without the output.
    pub layers: u64,
    /// Layers on the GPU, counted from the last; the output counts as one more.
    pub gpu_layers: u64,
    /// Of a mixture: layers, from the first, whose experts stay in main memory.
    pub cpu_experts: u64,
    /// Type of the cache of keys and values.
    pub cache: Cache,
    /// Whether attention is computed without a matrix of all scores.
    pub flash_attention: bool,
    /// Tokens of context that keys and values are kept for, in all.
    pub context: u64,
    /// Bytes on the GPU: weights, keys and values, scratch and the driver's own.
    pub vram: u64,
    /// Bytes in main memory: the rest of the weights, and keys and values.
    pub ram: u64,
    /// The budget.
    pub budget: u64,
    /// True when the whole model is on the GPU.
    pub whole: bool,
}

/// What a model needs, in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Needs {
    /// Each layer without its experts.
    layers: Vec<u64>,
    /// The experts of each layer.
    experts: Vec<u64>,
    /// The output, which is the embedding again where there is no other.
    output: u64,
    /// What is always in main memory: the embedding.
    input: u64,
    /// Keys and values of each layer for the whole context, with sixteen bits.
    cache: Vec<u64>,
    /// Scratch for a piece of tokens.
    scratch: u64,
    /// Largest tensor of each layer, without experts, and of its experts.
    largest: Vec<(u64, u64)>,
    /// More of it without flash attention.
    scores: u64,
    /// Whether keys and values come in whole blocks of eight bits.
    blocks: bool,
    /// GPUs that it is spread over.
    gpus: u64,
}

/// What a model is planned for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Bytes of GPU memory in all.
    pub budget: u64,
    /// GPUs that these are on, at least 1: each has its scratch, and its driver takes something.
    pub gpus: u64,
    /// Tokens of context, cut to what the model was trained for.
    pub context: u64,
    /// The cache has so many times the context: the daemon keeps prefixes beside what is at work.
    pub times: u64,
    /// The exact way of working: a second, short context, with keys, values and scratch of its own.
    pub exact: bool,
    /// Type of the cache; what buys most, when absent.
    pub cache: Option<Cache>,
    /// Whether attention is computed without a matrix of all scores. A cache of eight bits needs that.
    pub flash_attention: bool,
}

/// Plans for one GPU with `budget` bytes of memory and `context` tokens.
pub fn plan(header: &Header, budget: u64, context: u64) -> Plan {
    plan_for(header, Room { budget, gpus: 1, context, times: 1, exact: false, cache: None, flash_attention: true })
}

/// Plans for what there is.
pub fn plan_for(header: &Header, room: Room) -> Plan {
    let trained = header.architecture_number("context_length").unwrap_or(room.context);
    let (budget, one) = (room.budget, room.context.min(trained).max(1));
    let mut context = one * room.times.clamp(1, 16);
    let mut needs = Needs { gpus: room.gpus.max(1), ..Needs::of(header, context, PIECE) };
    if room.exact {
        let short = one.min(SHORT_CONTEXT.into());
        needs.beside(&Needs::of(header, short, SHORT_CHUNK.into()));
        context += short;
    }
    let full = needs.place(budget, context, room.cache.unwrap_or_default(), room.flash_attention);
    if full.whole || !needs.blocks || room.cache.is_some() || !room.flash_attention {
        return full;
    }
    // Eight bits for keys and values change answers a little: only where it buys the whole model or several layers.
    let half = needs.place(budget, context, Cache::Q8_0, true);
    let buys = half.whole
        || half.gpu_layers >= full.gpu_layers + WORTH_IT
        || (half.gpu_layers == full.gpu_layers && half.cpu_experts + WORTH_IT <= full.cpu_experts);
    if buys { half } else { full }
}

impl Needs {
    /// Needs of one context whose tokens are evaluated in pieces of so many.
    fn of(header: &Header, context: u64, piece: u64) -> Self {
        let number = |key: &str| header.architecture_number(key);
        let count = usize::try_from(number("block_count").unwrap_or(0)).unwrap_or(0);
        let (mut layers, mut experts) = (vec![0_u64; count], vec![0_u64; count]);
        let (mut input, mut output, mut largest) = (0, 0, vec![(0_u64, 0_u64); count]);
        for tensor in &header.tensors {
            let layer = tensor.layer().and_then(|l| usize::try_from(l).ok());
            if let Some((dense, expert)) = layer.and_then(|layer| largest.get_mut(layer)) {
                let largest = if tensor.name.contains("exps.") { expert } else { dense };
                *largest = tensor.bytes.max(*largest);
            }
            let place = match layer {
                Some(layer) if tensor.name.contains("exps.") => experts.get_mut(layer),
                Some(layer) => layers.get_mut(layer),
                None if tensor.name.starts_with("output") => Some(&mut output),
                None => Some(&mut input),
            };
            if let Some(place) = place {
                *place += tensor.bytes;
            }
        }
        let embedding = header.tensors.iter().find(|t| t.name == "token_embd.weight");
        let vocabulary = embedding.and_then(|t| t.dims.get(1).copied()).unwrap_or(0);
        if !header.tensors.iter().any(|t| t.name == "output.weight") {
            output += embedding.map_or(0, |t| t.bytes);
        }
        let width = number("embedding_length").unwrap_or(0);
        let heads = number("attention.head_count").unwrap_or(1).max(1);
        let kv_heads = number("attention.head_count_kv").unwrap_or(heads);
        let key = number("attention.key_length").unwrap_or(width / heads);
        let value = number("attention.value_length").unwrap_or(width / heads);
        let cache = vec![context * kv_heads * (key + value) * 2; count];
        let inner = number("feed_forward_length").unwrap_or(0).max(number("expert_feed_forward_length").unwrap_or(0));
        let rows = piece.min(context);
        let scratch = rows * 4 * (vocabulary + 4 * width + 2 * inner);
        let blocks = key % BLOCK == 0 && value % BLOCK == 0;
        Self { layers, experts, output, input, cache, scratch, largest, scores: rows * 4 * context * heads, blocks, gpus: 1 }
    }

    /// Another context of the same model: its keys, values and scratch come on top, the weights are there once.
    fn beside(&mut self, other: &Self) {
        self.cache.iter_mut().zip(&other.cache).for_each(|(bytes, more)| *bytes += more);
        self.scratch += other.scratch;
        self.scores += other.scores;
    }

    /// The largest part that fits, with this cache. Experts leave first: they are most of a mixture's weights and work
    /// on few tokens each.
    fn place(&self, budget: u64, context: u64, cache: Cache, flash_attention: bool) -> Plan {
        let count = self.layers.len() as u64;
        let mixture = self.experts.iter().any(|bytes| *bytes > 0);
        let most_experts_away = if mixture { count } else { 0 };
        for away in 0..=most_experts_away {
            let vram = self.vram(count + 1, away, cache, flash_attention);
            if vram <= budget {
                return self.plan((count + 1, away), (cache, flash_attention), budget, context);
            }
        }
        let fits = |layers: &u64| self.vram(*layers, most_experts_away, cache, flash_attention) <= budget;
        let gpu_layers = (1..=count).rev().find(fits).unwrap_or(0);
        self.plan((gpu_layers, most_experts_away), (cache, flash_attention), budget, context)
    }

    fn plan(&self, (gpu_layers, cpu_experts): (u64, u64), (cache, flash_attention): (Cache, bool), budget: u64, context: u64) -> Plan {
        let count = self.layers.len() as u64;
        let all: u64 = self.layers.iter().chain(&self.experts).sum::<u64>() + self.input + self.output;
        let (weights, keys) = self.on_gpu(gpu_layers, cpu_experts, cache);
        let keys_all: u64 = self.cache.iter().map(|bytes| cache.bytes(*bytes)).sum();
        let vram = if gpu_layers == 0 { 0 } else { self.vram(gpu_layers, cpu_experts, cache, flash_attention) };
        Plan {
            layers: count,
            gpu_layers,
            cpu_experts: if gpu_layers == 0 { 0 } else { cpu_experts },
            cache,
            flash_attention,
            context,
            vram,
            ram: all - weights + keys_all - keys + if gpu_layers == 0 { self.scratch } else { 0 },
            budget,
            whole: gpu_layers > count && cpu_experts == 0,
        }
    }

    /// Bytes of weights, and of keys and values, on the GPU: the output first, then layers from the last.
    fn on_gpu(&self, gpu_layers: u64, cpu_experts: u64, cache: Cache) -> (u64, u64) {
        if gpu_layers == 0 {
            return (0, 0);
        }
        let count = self.layers.len() as u64;
        let first = (count + 1).saturating_sub(gpu_layers);
        let (mut weights, mut keys) = (self.output, 0);
        for (index, ((layer, experts), kept)) in self.layers.iter().zip(&self.experts).zip(&self.cache).enumerate() {
            let index = index as u64;
            if index >= first {
                weights += layer + if index < cpu_experts { 0 } else { *experts };
                keys += cache.bytes(*kept);
            }
        }
        (weights, keys)
    }

    /// Bytes of the largest tensor that stays in main memory. llama.cpp copies such, one at a time, to the GPU to multiply a long
    /// prompt there (its `op_offload`).
    fn visitor(&self, gpu_layers: u64, cpu_experts: u64) -> u64 {
        let first = (self.layers.len() as u64 + 1).saturating_sub(gpu_layers);
        let of = |(index, (dense, expert)): (u64, &(u64, u64))| match index {
            _ if index < first => *dense.max(expert),
            _ if index < cpu_experts => *expert,
            _ => 0,
        };
        (0..).zip(&self.largest).map(of).max().unwrap_or(0)
    }

    fn vram(&self, gpu_layers: u64, cpu_experts: u64, cache: Cache, flash_attention: bool) -> u64 {
        let (weights, keys) = self.on_gpu(gpu_layers, cpu_experts, cache);
        let visitor = self.visitor(gpu_layers, cpu_experts);
        weights + keys + visitor + (self.scratch + DRIVER + if flash_attention { 0 } else { self.scores }) * self.gpus
    }
}

impl Plan {
    /// What the engine is told.
    pub fn offload(&self) -> Offload {
        Offload {
            gpu_layers: Some(u32::try_from(self.gpu_layers).unwrap_or(u32::MAX)),
            cpu_experts: u32::try_from(self.cpu_experts).unwrap_or(u32::MAX),
            cache: self.cache,
            flash_attention: Some(self.flash_attention),
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.gpu_layers {
            0 => f.write_str("all of it in main memory")?,
            n => write!(f, "the output and {} of {} layers on the GPU", n - 1, self.layers)?,
        }
        if self.cpu_experts > 0 {
            write!(f, ", experts of the first {} in main memory", self.cpu_experts)?;
        }
        let bits = match self.cache {
            Cache::F16 => "sixteen",
            Cache::Q8_0 => "eight",
            Cache::F32 => "thirty-two",
        };
        write!(f, "; keys and values of {} tokens with {bits} bits", self.context)?;
        write!(f, "; about {} of {} MB on the GPU and {} MB in main memory", self.vram >> 20, self.budget >> 20, self.ram >> 20)
    }
}

/// Bytes of a size such as `8GiB`, `500 MB` or `1073741824`.
///
/// # Errors
/// One line that shows the form.
pub fn bytes(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let factor = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "kb" => 1e3,
        "mb" => 1e6,
        "gb" => 1e9,
        "kib" | "k" => 1024.0,
        "mib" | "m" => 1_048_576.0,
        "gib" | "g" => 1_073_741_824.0,
        _ => return Err(format!("`{text}` is no size; write one such as 8GiB or 500MB")),
    };
    let size = number.parse::<f64>().ok().map(|n| n * factor).filter(|n| n.is_finite() && *n >= 0.0 && *n < 1e15);
    size.map(|n| n as u64).ok_or_else(|| format!("`{text}` is no size; write one such as 8GiB or 500MB"))
}

#[cfg(test)]
mod tests {
    use super::super::gguf::{Tensor, Value};
    use super::*;

    const GIB: u64 = 1 << 30;

    fn header(architecture: &str, numbers: &[(&str, u64)], tensors: Vec<Tensor>) -> Header {
        let mut metadata: std::collections::BTreeMap<String, Value> =
            numbers.iter().map(|(key, n)| (format!("{architecture}.{key}"), Value::Integer((*n).into(), 4))).collect();
        metadata.insert("general.architecture".into(), Value::Text(architecture.into()));
        Header { metadata, tensors, alignment: 32, data: 0, size: u64::MAX }
    }

    fn tensor(name: &str, dims: &[u64], bytes: u64) -> Tensor {
        Tensor { name: name.into(), dims: dims.into(), kind: 12, offset: 0, bytes }
    }

    /// A dense model of eight billion weights in four bits: 36 layers of 122 MB, an output of 500 MB.
    fn dense() -> Header {
        let mut tensors =
            vec![tensor("token_embd.weight", &[4_096, 151_936], 350 << 20), tensor("output.weight", &[4_096, 151_936], 500 << 20)];
        tensors.extend((0..36).map(|i| tensor(&format!("blk.{i}.ffn_up.weight"), &[4_096, 12_288], 122 << 20)));
        let numbers = [
            ("block_count", 36),
            ("embedding_length", 4_096),
            ("context_length", 40_960),
            ("feed_forward_length", 12_288),
            ("attention.head_count", 32),
            ("attention.head_count_kv", 8),
            ("attention.key_length", 128),
            ("attention.value_length", 128),
        ];
        header("qwen3", &numbers, tensors)
    }

    /// A mixture of twenty billion weights: 24 layers of 20 MB and experts of 430 MB each.
    fn mixture() -> Header {
        let mut tensors =
            vec![tensor("token_embd.weight", &[2_880, 201_088], 600 << 20), tensor("output.weight", &[2_880, 201_088], 600 << 20)];
        for i in 0..24 {
            tensors.push(tensor(&format!("blk.{i}.attn_q.weight"), &[2_880, 4_096], 20 << 20));
            tensors.push(tensor(&format!("blk.{i}.ffn_gate_up_exps.weight"), &[2_880, 5_760, 32], 430 << 20));
        }
        let numbers = [
            ("block_count", 24),
            ("embedding_length", 2_880),
            ("context_length", 131_072),
            ("feed_forward_length", 2_880),
            ("attention.head_count", 64),
            ("attention.head_count_kv", 8),
            ("attention.key_length", 64),
            ("attention.value_length", 64),
            ("expert_count", 32),
            ("expert_used_count", 4),
        ];
        header("gpt-oss", &numbers, tensors)
    }

    #[test]
    fn a_dense_model_is_whole_where_it_fits_and_in_layers_where_not() {
        let whole = plan(&dense(), 8 * GIB, 4_096);
        assert!(whole.whole && whole.gpu_layers == 37 && whole.cache == Cache::F16, "{whole:?}");
        assert!(whole.ram == 350 << 20, "the embedding stays: {whole:?}");
        let part = plan(&dense(), 4 * GIB, 4_096);
        assert!(!part.whole && (10..36).contains(&part.gpu_layers) && part.vram <= 4 * GIB, "{part:?}");
        let none = plan(&dense(), GIB / 2, 4_096);
        assert_eq!((none.gpu_layers, none.vram), (0, 0));
        // What is not in one place is in the other.
        let weights = (350 + 500 + 36 * 122) << 20;
        assert!(none.ram > weights && part.ram + part.vram > weights);
    }

    #[test]
    fn a_long_context_is_kept_with_eight_bits_when_that_saves_the_day() {
        let long = plan(&dense(), 9 * GIB, 32_768);
        assert!(long.whole && long.cache == Cache::Q8_0, "{long:?}");
        let mut odd = dense();
        odd.metadata.insert("qwen3.attention.key_length".into(), Value::Integer(80, 4));
        assert_eq!(plan(&odd, 5 * GIB, 32_768).cache, Cache::F16, "heads of 80 are no whole blocks");
        assert_eq!(plan(&dense(), 80 * GIB, 1 << 20).context, 40_960, "no further than it was trained for");
    }

    #[test]
    fn experts_of_a_mixture_leave_the_gpu_first() {
        let whole = plan(&mixture(), 16 * GIB, 4_096);
        assert!(whole.whole && whole.cpu_experts == 0, "{whole:?}");
        let some = plan(&mixture(), 8 * GIB, 4_096);
        assert!(some.gpu_layers == 25 && (1..24).contains(&some.cpu_experts) && !some.whole, "{some:?}");
        let tight = plan(&mixture(), 5 * GIB / 2, 4_096);
        assert!(tight.gpu_layers == 25 && tight.cpu_experts > some.cpu_experts, "{tight:?}");
        let told = some.to_string();
        assert!(told.contains("the output and 24 of 24 layers") && told.contains("experts of the first"), "{told}");
        let offload = some.offload();
        assert_eq!(u64::from(offload.cpu_experts), some.cpu_experts);
    }

    #[test]
    fn what_stays_in_main_memory_has_room_on_the_gpu_one_tensor_at_a_time() {
        let (dense, mixture) = (Needs::of(&dense(), 4_096, PIECE), Needs::of(&mixture(), 4_096, PIECE));
        assert_eq!([37, 36, 1].map(|layers| dense.visitor(layers, 0) >> 20), [0, 122, 122]);
        assert_eq!([0, 1, 24].map(|away| mixture.visitor(25, away) >> 20), [0, 430, 430]);
        let vram = |away| mixture.vram(25, away, Cache::F16, true);
        assert_eq!((vram(0) - vram(1), (vram(1) - vram(2)) >> 20), (0, 430), "the first that leaves comes back for each prompt");
    }

    #[test]
    fn each_gpu_has_its_scratch_and_a_cache_that_was_asked_for_is_kept() {
        let room = Room { budget: 80 * GIB, gpus: 1, context: 4_096, times: 1, exact: false, cache: None, flash_attention: true };
        let [one, three] = [1, 3].map(|gpus| plan_for(&dense(), Room { gpus, ..room }));
        let scratch = Needs::of(&dense(), 4_096, PIECE).scratch + DRIVER;
        assert_eq!(three.vram - one.vram, 2 * scratch);
        let cache = |cache| plan_for(&dense(), Room { cache, ..room }).cache;
        assert_eq!((cache(Some(Cache::Q8_0)), cache(Some(Cache::F32)), cache(None)), (Cache::Q8_0, Cache::F32, Cache::F16));
    }

    #[test]
    fn the_exact_way_has_room_for_its_second_context() {
        let one = Room { budget: 80 * GIB, gpus: 1, context: 4_096, times: 1, exact: false, cache: None, flash_attention: true };
        let exact = Room { exact: true, ..one };
        let (without, with) = (plan_for(&dense(), one), plan_for(&dense(), exact));
        let short = Needs::of(&dense(), 1_024, 256);
        assert_eq!(with.vram - without.vram, short.cache.iter().sum::<u64>() + short.scratch);
        assert_eq!((without.context, with.context, with.ram), (4_096, 5_120, without.ram));
        let scores = |room: Room| plan_for(&dense(), Room { flash_attention: false, ..room }).vram - plan_for(&dense(), room).vram;
        assert_eq!(scores(exact) - scores(one), short.scores);
        // A budget that just holds one context does not hold two; a short context has a second one that is as short.
        let tight = Room { budget: without.vram, cache: Some(Cache::F16), ..exact };
        assert!(without.whole && !plan_for(&dense(), tight).whole && plan_for(&dense(), tight).vram <= without.vram);
        assert_eq!(plan_for(&dense(), Room { context: 512, ..exact }).context, 1_024);
    }

    #[test]
    fn without_flash_attention_the_scores_take_room_and_the_cache_keeps_sixteen_bits() {
        let room = Room { budget: 9 * GIB, gpus: 1, context: 32_768, times: 1, exact: false, cache: None, flash_attention: true };
        let (with, without) = (plan_for(&dense(), room), plan_for(&dense(), Room { flash_attention: false, ..room }));
        assert_eq!((with.cache, without.cache), (Cache::Q8_0, Cache::F16));
        assert!(!without.flash_attention && !without.whole && without.vram <= room.budget, "{without:?}");
        assert_eq!(without.offload().flash_attention, Some(false));
        let wide = |flash_attention| plan_for(&dense(), Room { budget: 80 * GIB, flash_attention, ..room });
        assert_eq!(wide(false).vram - wide(true).vram, Needs::of(&dense(), 32_768, PIECE).scores);
    }

    #[test]
    fn more_memory_never_means_less_on_the_gpu() {
        for header in [dense(), mixture()] {
            let plans: Vec<Plan> = (0..48).map(|i| plan(&header, i * GIB / 4, 8_192)).collect();
            for pair in plans.windows(2) {
                assert!(pair[0].vram <= pair[0].budget || pair[0].gpu_layers == 0, "{pair:?}");
                assert!((pair[1].gpu_layers, u64::MAX - pair[1].cpu_experts) >= (pair[0].gpu_layers, 0), "{pair:?}");
                assert!(pair[0].cache != pair[1].cache || pair[1].ram <= pair[0].ram, "{pair:?}");
            }
        }
    }

    #[test]
    fn sizes_are_read() {
        assert_eq!(bytes("8GiB"), Ok(8 * GIB));
        assert_eq!(bytes(" 1.5 gb"), Ok(1_500_000_000));
        assert_eq!(bytes("42"), Ok(42));
        for bad in ["", "lots", "8 parsecs", "-1", "1e400", "."] {
            assert!(bytes(bad).unwrap_err().contains("8GiB"), "{bad}");
        }
    }
}
