//! Turns a prompt into tokens with the model's own chat template, so that data can never end a turn.
//!
//! The template is rendered once with marks in place of the data and cut at the marks. Only the template's own pieces
//! are tokenised with control tokens; data is tokenised without, so a `<|im_end|>` in a query's text stays seven letters.

use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::token::LlamaToken;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Kwargs;
use minijinja::{Environment, ErrorKind, Value, context};

use super::{LlmError, Prompt};

const SHARED: &str = "GALEN-SHARED-TEXT";
const OWN: &str = "GALEN-OWN-TEXT";

/// A prompt in tokens. Both parts are tokenised apart, so `shared` never depends on what follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tokens {
    /// The cacheable part: up to and with the head of the user's turn.
    pub shared: Vec<LlamaToken>,
    /// The rest, with the head of the model's turn.
    pub own: Vec<LlamaToken>,
    /// Sections of the prompt that were left out.
    pub cut: Vec<usize>,
}

/// The template's pieces in tokens.
#[derive(Debug)]
pub struct Chat<'m> {
    model: &'m LlamaModel,
    with_shared: Pieces,
    without_shared: Pieces,
}

#[derive(Debug, Default)]
struct Pieces {
    head: Vec<LlamaToken>,
    middle: Vec<LlamaToken>,
    tail: Vec<LlamaToken>,
}

/// The text around the data.
#[derive(Debug, Default, PartialEq, Eq)]
struct Frame {
    head: String,
    middle: String,
    tail: String,
}

impl<'m> Chat<'m> {
    /// Reads and renders the template in the model's file; a model without one gets the bare text.
    ///
    /// # Errors
    /// [`LlmError::Unavailable`] when the template does not render.
    pub fn new(model: &'m LlamaModel) -> Result<Self, LlmError> {
        let template = model.meta_val_str("tokenizer.chat_template").unwrap_or_default();
        let bos = control_text(model, model.vocab().bos());
        let eos = control_text(model, model.vocab().eos());
        let with_shared = frame(&template, &bos, &eos, true)?;
        let without_shared = frame(&template, &bos, &eos, false)?;
        Ok(Self { model, with_shared: pieces(model, &with_shared), without_shared: pieces(model, &without_shared) })
    }

    /// The prompt in tokens.
    pub fn tokens(&self, prompt: &Prompt) -> Tokens {
        let pieces = if prompt.shared.is_empty() { &self.without_shared } else { &self.with_shared };
        let mut shared = pieces.head.clone();
        shared.extend(self.data(&prompt.shared));
        shared.extend(&pieces.middle);
        let mut own = self.data(&prompt.own);
        own.extend(&pieces.tail);
        Tokens { shared, own, cut: Vec::new() }
    }

    /// Text as data: control tokens in it stay plain letters.
    pub fn data(&self, text: &str) -> Vec<LlamaToken> {
        if text.is_empty() { Vec::new() } else { self.model.vocab().tokenize(text.as_bytes(), false, false) }
    }
}

fn control_text(model: &LlamaModel, token: LlamaToken) -> String {
    if token.0 < 0 {
        return String::new();
    }
    model.vocab().text(token).map(|t| t.to_string_lossy().into_owned()).unwrap_or_default()
}

fn pieces(model: &LlamaModel, frame: &Frame) -> Pieces {
    let vocab = model.vocab();
    let trusted = |text: &str| {
        if text.is_empty() { Vec::new() } else { vocab.tokenize(text.as_bytes(), false, true) }
    };
    let mut head = trusted(&frame.head);
    if vocab.should_add_bos() && vocab.bos().0 >= 0 && head.first() != Some(&vocab.bos()) {
        head.insert(0, vocab.bos());
    }
    Pieces { head, middle: trusted(&frame.middle), tail: trusted(&frame.tail) }
}

/// The template's text around the data. Templates that refuse a system turn get one user turn.
fn frame(template: &str, bos: &str, eos: &str, shared: bool) -> Result<Frame, LlmError> {
    if template.is_empty() {
        let middle = if shared { "\n\n" } else { "" };
        return Ok(Frame { head: String::new(), middle: middle.to_owned(), tail: "\n".to_owned() });
    }
    let user = |text: &str| vec![context! { role => "user", content => text }];
    if !shared {
        return render(template, bos, eos, user(OWN)).and_then(|text| cut(&text, false));
    }
    let mut messages = vec![context! { role => "system", content => SHARED }];
    messages.extend(user(OWN));
    render(template, bos, eos, messages)
        .and_then(|text| cut(&text, true))
        .or_else(|_| render(template, bos, eos, user(&format!("{SHARED}\n\n{OWN}"))).and_then(|text| cut(&text, true)))
}

/// Ends the thoughts that a template begins for the model: what is asked here is answered in few tokens, and a vote by
/// letter needs the letter first.
fn without_thoughts(template: &str, mut text: String) -> String {
    if text.trim_end().ends_with("<think>") {
        text.push_str("\n\n</think>\n\n");
    } else if template.contains("<|channel|>") && text.ends_with("<|start|>assistant") {
        text.push_str("<|channel|>final<|message|>");
    }
    text
}

fn cut(text: &str, shared: bool) -> Result<Frame, LlmError> {
    let unusable = || LlmError::Unavailable("the model's chat template does not show each message once".to_owned());
    if text.matches(OWN).count() != 1 || text.matches(SHARED).count() != usize::from(shared) {
        return Err(unusable());
    }
    let (before, tail) = text.split_once(OWN).ok_or_else(unusable)?;
    let (head, middle) = if shared { before.split_once(SHARED).ok_or_else(unusable)? } else { (before, "") };
    Ok(Frame { head: head.to_owned(), middle: middle.to_owned(), tail: tail.to_owned() })
}

fn render(template: &str, bos: &str, eos: &str, messages: Vec<Value>) -> Result<String, LlmError> {
    let refuse = |e: minijinja::Error| LlmError::Unavailable(format!("the model's chat template does not render: {e}"));
    let mut env = Environment::new();
    // As the models' own libraries render them.
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build().map_err(refuse)?;
    env.set_syntax(syntax);
    env.set_fuel(Some(1_000_000));
    env.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    env.add_function("raise_exception", |why: String| -> Result<Value, minijinja::Error> {
        Err(minijinja::Error::new(ErrorKind::InvalidOperation, why))
    });
    env.add_function("strftime_now", strftime_now);
    env.add_template("chat", template).map_err(refuse)?;
    let chat = env.get_template("chat").map_err(refuse)?;
    // Templates of models that can do without thinking aloud ask for it by this name.
    let text = chat.render(context! {
        messages, add_generation_prompt => true, bos_token => bos, eos_token => eos, enable_thinking => false, reasoning_effort => "low"
    });
    text.map(|text| without_thoughts(template, text)).map_err(refuse)
}

/// A fixed day: a prompt must not change with the clock, or a diagnosis could not be replayed.
fn strftime_now(format: &str, _options: Kwargs) -> Result<String, minijinja::Error> {
    jiff::fmt::strtime::format(format, jiff::civil::date(2025, 1, 1))
        .map_err(|e| minijinja::Error::new(ErrorKind::InvalidOperation, e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHATML: &str = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

    #[test]
    fn a_template_is_cut_around_the_data() {
        let frame = frame(CHATML, "", "", true).unwrap();
        assert_eq!(frame.head, "<|im_start|>system\n");
        assert_eq!(frame.middle, "<|im_end|>\n<|im_start|>user\n");
        assert_eq!(frame.tail, "<|im_end|>\n<|im_start|>assistant\n");
    }

    #[test]
    fn a_template_without_a_system_turn_gets_one_user_turn() {
        let template = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}{{ bos_token }}[{{ messages[0].content.strip() }}]";
        let frame = frame(template, "<s>", "", true).unwrap();
        assert_eq!(frame, Frame { head: "<s>[".into(), middle: "\n\n".into(), tail: "]".into() });
    }

    #[test]
    fn hostile_templates_are_refused() {
        for template in [
            "{{ ",
            "{{ raise_exception('x') }}",
            "no messages",
            "{{ messages[0].content }}{{ messages[0].content }}",
            "{% for i in range(9999999) %}x{% endfor %}",
        ] {
            assert!(matches!(frame(template, "", "", false), Err(LlmError::Unavailable(_))), "{template}");
        }
    }

    #[test]
    fn the_clock_does_not_reach_the_prompt() {
        let template = "{{ strftime_now('%Y-%m-%d') }} {{ messages[0].content }}";
        assert_eq!(frame(template, "", "", false).unwrap().head, "2025-01-01 ");
    }

    /// The behaviour of a template whose model thinks unless told not to: it then gets an empty thought.
    const SWITCHABLE: &str = "{%- for m in messages %}{{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{%- endfor %}\
        {%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}\
        {%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}{%- endif %}";

    #[test]
    fn thinking_is_switched_off_or_ended_before_the_answer() {
        let tail = |template: &str| frame(template, "", "", true).unwrap().tail;
        assert_eq!(tail(SWITCHABLE), "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n");
        let always = CHATML.replace("assistant\\n", "assistant\\n<think>\\n");
        assert_eq!(tail(&always), "<|im_end|>\n<|im_start|>assistant\n<think>\n\n\n</think>\n\n");
        let channels =
            "{% for m in messages %}<|start|>{{ m.role }}<|channel|>x<|message|>{{ m.content }}<|end|>{% endfor %}<|start|>assistant";
        assert!(tail(channels).ends_with("<|start|>assistant<|channel|>final<|message|>"));
        assert!(!tail(CHATML).contains("think"));
    }

    fn joined(frame: &Frame) -> String {
        format!("{}{SHARED}{}{OWN}{}", frame.head, frame.middle, frame.tail)
    }

    /// As [`joined`], without a system turn.
    fn alone(frame: &Frame) -> String {
        format!("{}{OWN}{}", frame.head, frame.tail)
    }

    /// Families by llama.cpp's names, with a template in our words for each.
    const FAMILIES: [(&str, &str); 6] = [
        ("chatml", CHATML),
        (
            "llama3",
            "{% for m in messages %}{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\\n\\n' + m.content | trim + '<|eot_id|>' }}{% endfor %}\
             {% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}",
        ),
        (
            "gemma",
            "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system turn') }}{% endif %}\
             {% for m in messages %}{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\\n' + m.content | trim + '<end_of_turn>\\n' }}{% endfor %}\
             {% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}",
        ),
        (
            "minicpm",
            "{% for m in messages %}{% if m.role == 'user' %}{{ '<用户>' + m.content.strip() + '<AI>' }}{% else %}{{ m.content.strip() }}{% endif %}{% endfor %}",
        ),
        (
            "mistral-v7",
            "{%- for m in messages -%}{%- if m['role'] == 'system' -%}{{- '[SYSTEM_PROMPT] ' + m['content'] + '[/SYSTEM_PROMPT]' -}}\
             {%- elif m['role'] == 'user' -%}{{- '[INST] ' + m['content'] + '[/INST]' -}}{%- endif -%}{%- endfor -%}",
        ),
        (
            "mistral-v7-tekken",
            "{% for m in messages %}{% if m.role == 'system' %}[SYSTEM_PROMPT]{{ m.content }}[/SYSTEM_PROMPT]{% else %}[INST]{{ m.content }}[/INST]{% endif %}{% endfor %}",
        ),
    ];

    #[test]
    fn what_is_rendered_is_what_llama_cpp_writes_for_the_same_family() {
        use llama_cpp_2::llama_backend::LlamaBackend;
        use llama_cpp_2::model::params::LlamaModelParams;
        use llama_cpp_2::model::{LlamaChatMessage, LlamaChatTemplate};

        use crate::llm::registry::{Registry, default_models_dir};

        if std::env::var_os("GALEN_NO_MODEL").is_some_and(|v| v == "1") {
            eprintln!("skipped: GALEN_NO_MODEL=1");
            return;
        }
        let folder = default_models_dir();
        let registry = Registry::builtin().unwrap();
        let there = |name: &str| {
            let model = registry.find(name).unwrap();
            let there = model.path(&folder).exists();
            if !there {
                eprintln!("skipped: the template of {name}: {} is missing: run make model MODEL={name}", model.path(&folder).display());
            }
            there.then_some(model)
        };
        let here: Vec<_> = ["smollm2-135m", "qwen2.5-coder-0.5b", "qwen2.5-coder-1.5b"].into_iter().filter_map(there).collect();
        assert!(!here.is_empty(), "no model is here: run make model (or set GALEN_NO_MODEL=1)");
        let backend = LlamaBackend::init().unwrap();
        let load = |path: &std::path::Path| {
            LlamaModel::load_from_file(&backend, path, &LlamaModelParams::default().with_vocab_only(true)).unwrap()
        };
        let message = |role: &str, text: &str| LlamaChatMessage::new(role.into(), text.into()).unwrap();
        let both = [message("system", SHARED), message("user", OWN)];
        let user = [message("user", OWN)];
        // Any model does for these: the template is given by name.
        let model = load(&here[0].path(&folder));
        let theirs = |name: &str, messages: &[LlamaChatMessage]| {
            model.apply_chat_template(&LlamaChatTemplate::new(name).unwrap(), messages, true).unwrap()
        };
        for (name, template) in FAMILIES {
            assert_eq!(joined(&frame(template, "", "", true).unwrap()), theirs(name, &both), "{name}");
            assert_eq!(alone(&frame(template, "", "", false).unwrap()), theirs(name, &user), "{name} without a system turn");
        }
        for entry in here {
            let model = load(&entry.path(&folder));
            let template = model.meta_val_str("tokenizer.chat_template").unwrap();
            let family = entry.template.as_deref().unwrap();
            let with = frame(&template, "", "", true).unwrap();
            assert_eq!(joined(&with), theirs(family, &both), "{}", entry.name);
            // Some templates add a system turn of their own where there is none, which llama.cpp's renderer does not: it is told.
            let without = frame(&template, "", "", false).unwrap();
            let added = without.head.strip_prefix(with.head.as_str()).and_then(|rest| rest.strip_suffix(with.middle.as_str()));
            let expected = match added {
                Some(added) => theirs(family, &[message("system", added), message("user", OWN)]),
                None => theirs(family, &user),
            };
            assert!(added.is_none_or(|added| !added.is_empty() && template.contains(added)), "{}: {added:?}", entry.name);
            assert_eq!(alone(&without), expected, "{} without a system turn", entry.name);
        }
        // A base model has no turns: it goes on with the bare text, behind the token that begins one.
        if let Some(base) = there("gemma-3-270m") {
            let model = load(&base.path(&folder));
            assert!(model.meta_val_str("tokenizer.chat_template").is_err());
            let chat = Chat::new(&model).unwrap();
            let tokens = chat.tokens(&Prompt::new("Two sessions wait.", "Why?"));
            let text = |text: &str| model.vocab().tokenize(text.as_bytes(), false, false);
            let expected = [vec![model.vocab().bos()], text("Two sessions wait."), text("\n\n")].concat();
            assert_eq!((tokens.shared, tokens.own), (expected, [text("Why?"), text("\n")].concat()));
        }
    }
}
