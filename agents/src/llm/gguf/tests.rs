use std::fs;

use super::*;

/// Writes a header by hand: what the tests change is in these fields.
#[derive(Clone)]
struct File {
    entries: Vec<(String, Vec<u8>)>,
    tensors: Vec<(&'static str, Vec<u64>, u32, u64)>,
    data: usize,
}

fn text(s: &str) -> Vec<u8> {
    let mut bytes = (s.len() as u64).to_le_bytes().to_vec();
    bytes.extend(s.as_bytes());
    bytes
}

fn string(s: &str) -> Vec<u8> {
    [8_u32.to_le_bytes().to_vec(), text(s)].concat()
}

fn u32(n: u32) -> Vec<u8> {
    [4_u32.to_le_bytes(), n.to_le_bytes()].concat()
}

fn float(x: f32) -> Vec<u8> {
    [6_u32.to_le_bytes(), x.to_le_bytes()].concat()
}

fn strings(list: &[&str]) -> Vec<u8> {
    let mut bytes = [9_u32.to_le_bytes(), 8_u32.to_le_bytes()].concat();
    bytes.extend((list.len() as u64).to_le_bytes());
    list.iter().for_each(|s| bytes.extend(text(s)));
    bytes
}

fn numbers(kind: u32, count: u64, width: usize) -> Vec<u8> {
    let mut bytes = [9_u32.to_le_bytes(), kind.to_le_bytes()].concat();
    bytes.extend(count.to_le_bytes());
    bytes.extend(vec![0; usize::try_from(count).unwrap() * width]);
    bytes
}

impl File {
    /// A sound header of a model with one layer, a width of 8 and 4 tokens.
    fn sound() -> Self {
        let entries = [
            ("general.architecture", string("llama")),
            ("llama.block_count", u32(1)),
            ("llama.embedding_length", u32(8)),
            ("llama.context_length", u32(64)),
            ("llama.attention.head_count", u32(4)),
            ("llama.attention.head_count_kv", u32(2)),
            ("llama.rope.dimension_count", u32(2)),
            ("llama.rope.freq_base", float(10_000.0)),
            ("tokenizer.ggml.model", string("gpt2")),
            ("tokenizer.ggml.tokens", strings(&["a", "b", "c", "ab"])),
            ("tokenizer.ggml.token_type", numbers(5, 4, 4)),
            ("tokenizer.ggml.merges", strings(&["a b"])),
            ("tokenizer.ggml.bos_token_id", u32(0)),
        ];
        let entries = entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        Self { entries, tensors: vec![("token_embd.weight", vec![8, 4], 0, 0), ("blk.0.attn_q.weight", vec![8, 8], 0, 128)], data: 384 }
    }

    fn with(mut self, key: &str, value: Vec<u8>) -> Self {
        self.entries.retain(|(k, _)| k != key);
        self.entries.push((key.to_owned(), value));
        self
    }

    fn without(mut self, key: &str) -> Self {
        self.entries.retain(|(k, _)| k != key);
        self
    }

    fn bytes(&self) -> Vec<u8> {
        let mut file = b"GGUF".to_vec();
        file.extend(3_u32.to_le_bytes());
        file.extend((self.tensors.len() as u64).to_le_bytes());
        file.extend((self.entries.len() as u64).to_le_bytes());
        for (key, value) in &self.entries {
            file.extend(text(key));
            file.extend(value);
        }
        for (name, dims, kind, offset) in &self.tensors {
            file.extend(text(name));
            file.extend(u32::try_from(dims.len()).unwrap().to_le_bytes());
            dims.iter().for_each(|n| file.extend(n.to_le_bytes()));
            file.extend(kind.to_le_bytes());
            file.extend(offset.to_le_bytes());
        }
        file.resize(file.len().div_ceil(32) * 32 + self.data, 0);
        file
    }

    fn verdict(&self) -> Result<Header, LlmError> {
        verdict(&self.bytes())
    }
}

fn verdict(bytes: &[u8]) -> Result<Header, LlmError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    fs::write(&path, bytes).unwrap();
    read(&path)
}

#[test]
fn a_whole_file_passes_and_every_truncation_is_refused() {
    let whole = File::sound().bytes();
    let header = verdict(&whole).unwrap();
    assert_eq!((header.parameters(), header.quantisation().as_str()), (96, "F32"));
    assert_eq!((header.architecture_number("context_length"), header.tensors[1].layer()), (Some(64), Some(0)));
    for end in 0..whole.len() {
        assert!(verdict(&whole[..end]).is_err(), "cut at {end}");
    }
}

#[test]
fn absurd_counts_and_lengths_are_refused() {
    for (at, value) in [(8, u64::MAX), (16, u64::MAX), (16, 1 << 40), (24, u64::MAX), (24, 1 << 50)] {
        let mut file = File::sound().bytes();
        file[at..at + 8].copy_from_slice(&value.to_le_bytes());
        assert!(verdict(&file).is_err(), "{value} at {at}");
    }
    assert!(verdict(b"MZ not a model at all").unwrap_err().to_string().contains("magic"));
}

#[test]
fn lists_that_take_the_memory_together_are_refused() {
    let mut file = File::sound();
    for i in 0..3 {
        file.entries.push((format!("x.{i}"), numbers(0, 1 << 22, 1)));
    }
    let why = verdict(&file.bytes()).unwrap_err().to_string();
    assert!(why.contains("too large together"), "{why}");
}

#[test]
fn metadata_that_llama_cpp_would_assert_is_refused_by_name() {
    let cases = [
        ("general.architecture", string("x y"), "no name"),
        ("llama.block_count", u32(0), "block_count is 0"),
        ("llama.block_count", u32(513), "block_count is 513"),
        ("llama.embedding_length", u32(0), "embedding_length"),
        ("llama.context_length", string("64"), "context_length"),
        ("llama.attention.head_count", u32(0), "head_count"),
        ("llama.attention.head_count", u32(3), "does not divide"),
        ("llama.attention.head_count", numbers(4, 0, 4), "head_count"),
        ("llama.attention.head_count_kv", u32(0), "keys"),
        ("llama.attention.head_count_kv", u32(3), "keys"),
        ("llama.rope.dimension_count", u32(3), "rotated"),
        ("llama.rope.freq_base", float(f32::NAN), "freq_base"),
        ("llama.rope.freq_base", float(0.0), "freq_base"),
        ("llama.expert_count", u32(8), "0 of 8 experts"),
        ("llama.expert_used_count", u32(2), "2 of 0 experts"),
        ("tokenizer.ggml.tokens", strings(&["a", "b", "c", "a"]), "twice"),
        ("tokenizer.ggml.tokens", strings(&["a", "b", "c", "a\0x"]), "twice"),
        ("tokenizer.ggml.tokens", strings(&["a", "b", "c"]), "token_type"),
        ("tokenizer.ggml.tokens", u32(4), "no tokens"),
        ("tokenizer.ggml.token_type", numbers(5, 3, 4), "token_type"),
        ("tokenizer.ggml.token_type", numbers(0, 4, 1), "token_type"),
        ("tokenizer.ggml.merges", u32(1), "merges"),
        ("tokenizer.ggml.bos_token_id", u32(4), "bos_token_id"),
        ("tokenizer.ggml.eot_token_id", float(1.0), "eot_token_id"),
        ("general.alignment", u32(3), "alignment"),
        ("general.type", string("adapter"), "no model"),
    ];
    for (key, value, word) in cases {
        let error = File::sound().with(key, value).verdict().unwrap_err().to_string();
        assert!(error.contains(word) && error.contains("not a usable GGUF"), "{key}: {error}");
    }
    for key in ["general.architecture", "llama.block_count", "llama.context_length", "tokenizer.ggml.model", "tokenizer.ggml.tokens"] {
        assert!(File::sound().without(key).verdict().is_err(), "{key}");
    }
    let mut twice = File::sound();
    twice.entries.push(("llama.block_count".to_owned(), u32(1)));
    assert!(twice.verdict().unwrap_err().to_string().contains("twice"));
}

#[test]
fn an_adapter_says_what_it_adapts_and_its_alpha_in_32_bits() {
    let mut file =
        File::sound().with("general.type", string("adapter")).with("adapter.type", string("lora")).with("adapter.lora.alpha", float(4.0));
    file.tensors = vec![("blk.0.attn_q.weight.lora_a", vec![8, 4], 0, 0), ("blk.0.attn_q.weight.lora_b", vec![4, 8], 0, 128)];
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.gguf");
    let verdict = |file: &File, architecture: &str| {
        fs::write(&path, file.bytes()).unwrap();
        check_adapter(&path, architecture).map_err(|e| e.to_string())
    };
    verdict(&file, "llama").unwrap();
    assert!(verdict(&file, "qwen2").unwrap_err().contains("it adapts llama"));
    let double = [12_u32.to_le_bytes().to_vec(), 4_f64.to_le_bytes().to_vec()].concat();
    for bad in [double, float(f32::INFINITY), u32(4)] {
        let why = verdict(&file.clone().with("adapter.lora.alpha", bad), "llama").unwrap_err();
        assert!(why.contains("alpha"), "{why}");
    }
}

#[test]
fn tensors_that_overlap_lie_outside_or_are_of_no_known_kind_are_refused() {
    type Change = (fn(&mut File), &'static str);
    let cases: [Change; 9] = [
        (|f| f.tensors[1].3 = 96, "overlap"),
        (|f| f.tensors[1].3 = 129, "aligned"),
        (|f| f.tensors[1].3 = 160, "behind its end"),
        (|f| f.tensors[1].3 = u64::MAX - 31, "behind its end"),
        (|f| f.tensors[1].2 = 4, "unknown type 4"),
        (|f| f.tensors[1].2 = 12, "no multiple of 256"),
        (|f| f.tensors[1].1[0] = 0, "no size"),
        (|f| f.tensors[1].0 = "token_embd.weight", "twice"),
        (|f| f.tensors[1].0 = "blk.1.attn_q.weight", "none of its 1 layers"),
    ];
    for (change, word) in cases {
        let mut file = File::sound();
        change(&mut file);
        let error = file.verdict().unwrap_err().to_string();
        assert!(error.contains(word), "{word}: {error}");
    }
    let mut other = File::sound();
    other.tensors[0].1 = vec![4, 8];
    assert!(other.verdict().unwrap_err().to_string().contains("embedding"));
}

proptest::proptest! {
    #[test]
    fn changed_bytes_never_panic_and_what_passes_still_adds_up(changes in proptest::collection::vec((0_usize..2_000, 0_u8..=255), 1..6)) {
        let mut file = File::sound().bytes();
        for (at, value) in changes {
            let at = at % file.len();
            file[at] = value;
        }
        if let Ok(header) = verdict(&file) {
            for tensor in &header.tensors {
                proptest::prop_assert!(header.data + tensor.offset + tensor.bytes <= header.size);
            }
        }
    }

    #[test]
    fn lengths_that_lie_are_refused_or_harmless(at in 24_usize..700, value: u64) {
        let mut file = File::sound().bytes();
        let at = at.min(file.len() - 8);
        file[at..at + 8].copy_from_slice(&value.to_le_bytes());
        let _ = verdict(&file);
    }
}
