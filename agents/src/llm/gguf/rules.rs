//! What a header must say so that llama.cpp does not run into one of its own assertions: each rule stands for one that
//! it has, or for memory that it would read past the end of a list.

use std::collections::HashSet;

use super::read::{F32, I32, STRING, U32};
use super::{Header, Value};

/// llama.cpp keeps values for each layer in lists of this length.
const MOST_LAYERS: u64 = 512;
/// Most experts of a layer.
const MOST_EXPERTS: u64 = 1024;
/// Most tokens of a vocabulary.
const MOST_TOKENS: u64 = 1 << 20;
/// Most tokens of context that any model is trained for.
const LONGEST_CONTEXT: u64 = 1 << 25;
/// Widest layer.
const WIDEST: u64 = 1 << 18;
/// ggml keeps a tensor's name in 64 bytes.
const LONGEST_TENSOR_NAME: usize = 63;
/// Longest token in bytes.
const LONGEST_TOKEN: u64 = 1 << 10;

type Verdict = Result<(), String>;

/// Checks a header that was read.
///
/// # Errors
/// The first thing that is wrong.
pub fn check(header: &Header) -> Verdict {
    tensors(header)?;
    let architecture = header.text("general.architecture").ok_or("general.architecture is missing")?;
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if architecture.is_empty() || architecture.len() > 64 || !architecture.chars().all(plain) {
        return Err("general.architecture is no name".to_owned());
    }
    if header.text("general.type").is_some_and(|kind| kind != "model") {
        return Err("it is no model by its own account".to_owned());
    }
    sizes(header)?;
    experts(header)?;
    floats(header)?;
    vocabulary(header)
}

/// Checks the header of a low-rank adapter.
///
/// # Errors
/// The first thing that is wrong.
pub fn adapter(header: &Header, architecture: &str) -> Verdict {
    tensors(header)?;
    if header.text("general.type") != Some("adapter") || header.text("adapter.type") != Some("lora") {
        return Err("it is no low-rank adapter".to_owned());
    }
    if header.architecture() != architecture {
        let theirs: String = header.architecture().chars().filter(|c| !c.is_control()).take(64).collect();
        return Err(format!("it adapts {theirs}, and the model is {architecture}"));
    }
    // llama.cpp ends the process where it has another width.
    if !matches!(header.metadata.get("adapter.lora.alpha"), Some(Value::Float(alpha, F32)) if alpha.is_finite()) {
        return Err("adapter.lora.alpha is no number of 32 bits".to_owned());
    }
    let part = |name: &str| name.strip_suffix(".lora_a").or_else(|| name.strip_suffix(".lora_b")).map(str::to_owned);
    // Kernels there are for floats only; in embeddings and in mixtures of experts llama.cpp does not check the shapes.
    let floats = |t: &super::Tensor| matches!(t.kind, 0 | 1 | 30);
    let checked = |t: &super::Tensor| !t.name.contains("_exps.") && !t.name.starts_with("token_embd.");
    let whole = |t: &super::Tensor| (1..=2).contains(&t.dims.len()) && !t.dims.contains(&0);
    let sound = |t: &super::Tensor| part(&t.name).is_some() && whole(t) && floats(t) && checked(t);
    match header.tensors.iter().find(|t| !sound(t)) {
        Some(_) => Err("a tensor is no half of a low-rank change".to_owned()),
        None if header.tensors.is_empty() => Err("it changes nothing".to_owned()),
        None => Ok(()),
    }
}

/// Names are unique, data is aligned, inside the file, and no byte belongs to two tensors.
fn tensors(header: &Header) -> Verdict {
    let mut names = HashSet::new();
    let mut spans = Vec::with_capacity(header.tensors.len());
    for tensor in &header.tensors {
        let name: String = tensor.name.chars().filter(|c| !c.is_control()).take(64).collect();
        if tensor.name.len() > LONGEST_TENSOR_NAME || !names.insert(tensor.name.as_str()) {
            return Err(format!("tensor {name} is there twice, or its name is too long"));
        }
        if !tensor.offset.is_multiple_of(header.alignment) {
            return Err(format!("tensor {name} is not aligned"));
        }
        let end = tensor.offset.checked_add(tensor.bytes).and_then(|end| end.checked_add(header.data));
        if end.is_none_or(|end| end > header.size) {
            return Err(format!("it is cut short: tensor {name} lies behind its end"));
        }
        spans.push((tensor.offset, tensor.offset + tensor.bytes));
    }
    spans.sort_unstable();
    if spans.windows(2).any(|pair| matches!(pair, [(_, end), (start, _)] if end > start)) {
        return Err("tensors overlap".to_owned());
    }
    Ok(())
}

/// The numbers that llama.cpp divides by or makes lists of.
fn sizes(header: &Header) -> Verdict {
    within(header, "block_count", 1, MOST_LAYERS)?;
    within(header, "embedding_length", 1, WIDEST)?;
    within(header, "context_length", 1, LONGEST_CONTEXT)?;
    for key in ["feed_forward_length", "expert_feed_forward_length", "attention.key_length", "attention.value_length"] {
        if header.architecture_value(key).is_some() {
            each(header, key, u64::from(!recurrent(header)), WIDEST)?;
        }
    }
    let layers = header.architecture_number("block_count").unwrap_or(0);
    let beyond = header.tensors.iter().filter(|t| t.name.starts_with("blk.")).find(|t| t.layer().is_none_or(|layer| layer >= layers));
    if let Some(tensor) = beyond {
        return Err(format!("{} belongs to none of its {layers} layers", tensor.name));
    }
    for key in ["attention.head_count", "attention.head_count_kv", "feed_forward_length"] {
        if let Some(Value::Numbers(list, _)) = header.architecture_value(key)
            && (list.len() as u64) < layers
        {
            return Err(format!("{key} has {} values for {layers} layers", list.len()));
        }
    }
    heads(header)
}

/// Architectures without attention have no heads, and say so with zeros.
fn recurrent(header: &Header) -> bool {
    ["mamba", "rwkv", "arwkv"].iter().any(|family| header.architecture().starts_with(family))
}

fn heads(header: &Header) -> Verdict {
    let Some(value) = header.architecture_value("attention.head_count") else { return Ok(()) };
    if recurrent(header) {
        return Ok(());
    }
    each(header, "attention.head_count", u64::from(matches!(value, Value::Integer(..))), WIDEST)?;
    let width = header.architecture_number("embedding_length").unwrap_or(0);
    let heads = header.architecture_number("attention.head_count").unwrap_or(0);
    if heads == 0 || heads > width {
        return Err(format!("{heads} heads of attention do not share a width of {width}"));
    }
    if header.architecture_value("attention.key_length").is_none() && !width.is_multiple_of(heads) {
        return Err(format!("a width of {width} does not divide among {heads} heads"));
    }
    if header.architecture_value("attention.head_count_kv").is_some() {
        each(header, "attention.head_count_kv", 0, heads)?;
        if let Some(Value::Integer(n, _)) = header.architecture_value("attention.head_count_kv")
            && (*n <= 0 || !heads.is_multiple_of(u64::try_from(*n).unwrap_or(u64::MAX)))
        {
            return Err(format!("{heads} heads do not share {n} keys"));
        }
    }
    if let Some(rotated) = header.architecture_number("rope.dimension_count") {
        let head = header.architecture_number("attention.key_length").unwrap_or(width / heads);
        if rotated == 0 || rotated % 2 == 1 || rotated > head {
            return Err(format!("{rotated} rotated dimensions of a head of {head}"));
        }
    }
    Ok(())
}

fn experts(header: &Header) -> Verdict {
    let experts = header.architecture_number("expert_count").unwrap_or(0);
    let used = header.architecture_number("expert_used_count").unwrap_or(0);
    if experts > MOST_EXPERTS || used > experts || (used == 0) != (experts == 0) {
        return Err(format!("{used} of {experts} experts"));
    }
    let groups = header.architecture_number("expert_group_count").unwrap_or(0);
    let groups_used = header.architecture_number("expert_group_used_count").unwrap_or(0);
    let fits = groups == 0 || groups == 1 || (groups < experts && experts.is_multiple_of(groups) && (1..groups).contains(&groups_used));
    if !fits {
        return Err(format!("{groups_used} of {groups} groups of {experts} experts"));
    }
    Ok(())
}

/// No number that is none, and no factor that turns every product into one.
fn floats(header: &Header) -> Verdict {
    let architecture = format!("{}.", header.architecture());
    for (key, value) in header.metadata.iter().filter(|(key, _)| key.starts_with(&architecture)) {
        let Value::Float(x, _) = value else { continue };
        let positive = key.ends_with("freq_base") || key.ends_with("_epsilon");
        if !x.is_finite() || x.abs() > 1e12 || (positive && *x <= 0.0) {
            return Err(format!("{} is {x}", key.chars().filter(|c| !c.is_control()).take(80).collect::<String>()));
        }
    }
    Ok(())
}

/// Lists of a vocabulary are as long as it is; special tokens are tokens.
fn vocabulary(header: &Header) -> Verdict {
    let Some(kind) = header.text("tokenizer.ggml.model") else { return Err("it has no tokenizer".to_owned()) };
    let tokens = match header.metadata.get("tokenizer.ggml.tokens") {
        Some(Value::Strings { count, twins: false, longest, .. }) => {
            if *longest > LONGEST_TOKEN {
                return Err(format!("a token has {longest} bytes"));
            }
            *count
        }
        Some(Value::Strings { .. }) => return Err("a token is there twice".to_owned()),
        _ => return Err(format!("the tokenizer {kind:.20} has no tokens")),
    };
    if !(2..=MOST_TOKENS).contains(&tokens) {
        return Err(format!("{tokens} tokens"));
    }
    let as_long = [("tokenizer.ggml.scores", F32), ("tokenizer.ggml.token_type", I32)];
    for (key, element) in as_long {
        match header.metadata.get(key) {
            None => {}
            Some(Value::Numbers(list, found)) if list.len() as u64 == tokens && *found == element => {}
            Some(_) => return Err(format!("{key} is not one value for each of {tokens} tokens")),
        }
    }
    if let Some(Value::Numbers(scores, _)) = header.metadata.get("tokenizer.ggml.scores")
        && scores.iter().any(|x| x.is_nan())
    {
        return Err("a score is no number".to_owned());
    }
    match header.metadata.get("tokenizer.ggml.merges") {
        None => {}
        Some(Value::Strings { longest, full: true, .. }) if *longest <= 2 * LONGEST_TOKEN + 1 => {}
        Some(_) => return Err("tokenizer.ggml.merges is no list of pairs".to_owned()),
    }
    let specials = header.metadata.iter().filter(|(key, _)| key.starts_with("tokenizer.ggml.") && key.ends_with("_token_id"));
    for (key, value) in specials {
        // llama.cpp takes the largest number, and minus one, as there being none.
        let sound = matches!(value, Value::Integer(n, U32) if *n < i128::from(tokens) || *n == i128::from(u32::MAX));
        if !sound {
            return Err(format!("{} is not one of {tokens} tokens", key.chars().filter(|c| !c.is_control()).take(80).collect::<String>()));
        }
    }
    if let Some(embedding) = header.tensors.iter().find(|t| t.name == "token_embd.weight") {
        let width = header.architecture_number("embedding_length").unwrap_or(0);
        if embedding.dims.first() != Some(&width) || embedding.dims.get(1).is_none_or(|n| *n != tokens) {
            return Err(format!("the embedding is {:?}, not {width} for each of {tokens} tokens", embedding.dims));
        }
    }
    Ok(())
}

/// A number, or a list of them, that is there and between two bounds.
fn each(header: &Header, key: &str, least: u64, most: u64) -> Verdict {
    let sound = |n: f64| n.fract() == 0.0 && n >= least as f64 && n <= most as f64;
    let fine = match header.architecture_value(key) {
        Some(Value::Integer(n, _)) => *n >= i128::from(least) && *n <= i128::from(most),
        Some(Value::Numbers(list, kind)) => {
            *kind != STRING && !list.is_empty() && list.iter().all(|n| n.fract() == 0.0 && (*n == 0.0 || sound(*n)))
        }
        _ => false,
    };
    if fine { Ok(()) } else { Err(format!("{key} must lie between {least} and {most}")) }
}

/// One number that is there and between two bounds.
fn within(header: &Header, key: &str, least: u64, most: u64) -> Verdict {
    match header.architecture_value(key) {
        Some(Value::Integer(n, _)) if (i128::from(least)..=i128::from(most)).contains(n) => Ok(()),
        Some(Value::Integer(n, _)) => Err(format!("{key} is {n}, not between {least} and {most}")),
        _ => Err(format!("{key} is missing or no number")),
    }
}
