//! `galen search`: the documents searched by a person, with the passages that answer.

use clap::Args;
use serde_json::json;

use galen_knowledge::index::passage::Passage;
use galen_knowledge::index::{Query, Ranks};

use super::Global;
use crate::failure::Failure;
use crate::shelf::{Shelf, embedder};
use crate::{engine, output};

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  galen search \"why do sorts go to disk\"
  galen search work_mem --limit 3
  galen search \"BufferMapping 53300\" --json

Words are compared by their stems, Chinese is segmented, and names (settings, views, signals, wait events, SQLSTATEs) must
match exactly. With `make embedding` done once, texts of the same meaning are found too.")]
pub struct SearchArgs {
    /// What to search for: words, names and codes
    #[arg(required = true, value_name = "WORDS")]
    words: Vec<String>,
    /// Most hits to print
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=100))]
    limit: u16,
}

/// Searches and prints.
pub fn search(global: &Global, args: &SearchArgs) -> Result<(), Failure> {
    let config = global.load()?;
    let query = Query::of(&args.words.join(" "));
    if query.terms().is_empty() {
        return Err(Failure::usage(format!("`{}` holds nothing to search for; say a word or a name", args.words.join(" "))));
    }
    let embedder = embedder(&config.model.folder()).inspect_err(|why| output::tell(&format!("galen: {why}"))).ok();
    let shelf = Shelf::open(&engine::builtin()?, &config.data_dir, embedder)?;
    let hits = shelf.index.search(&query, usize::from(args.limit));
    if hits.is_empty() && !global.json {
        output::tell("galen: nothing found");
    }
    for (at, hit) in hits.iter().enumerate() {
        let Some(chunk) = shelf.chunk(hit)? else { continue };
        let passage = shelf.index.passage(&query, &chunk.content);
        if global.json {
            let line = json!({
                "id": hit.id, "score": hit.score, "ranks": hit.ranks, "title": chunk.title, "causes": chunk.causes,
                "signals": chunk.signals, "language": chunk.language, "source": chunk.source, "passage": passage.text,
                "marks": passage.marks,
            });
            output::line(&line.to_string());
            continue;
        }
        let place = if chunk.source.section.is_empty() { chunk.title.clone() } else { chunk.source.section.join(" > ") };
        let from = format!("{} (byte {})", chunk.source.file, chunk.source.offset);
        let colours = output::colours();
        let (bold, dim, off) = if colours { ("\u{1b}[1m", "\u{1b}[2m", "\u{1b}[0m") } else { ("", "", "") };
        output::line(&format!("{}. {bold}{}{off}", at + 1, output::plain(&place)));
        output::line(&format!("   {dim}{}; {}{off}", output::plain(&from), found_by(hit.ranks)));
        output::line(&format!("   {}", highlighted(&passage, colours)));
    }
    Ok(())
}

/// Which ways of searching found it, and at which rank.
fn found_by(ranks: Ranks) -> String {
    let told = [("words", ranks.words), ("names", ranks.names), ("meaning", ranks.meaning)];
    told.iter().filter_map(|(way, rank)| rank.map(|r| format!("{way} {r}"))).collect::<Vec<_>>().join(", ")
}

/// The passage with its matches marked: in colour on a terminal, as they are elsewhere.
fn highlighted(passage: &Passage, colours: bool) -> String {
    let mut out = String::new();
    let mut at = 0;
    for (from, to) in &passage.marks {
        let (Some(before), Some(marked)) = (passage.text.get(at..*from), passage.text.get(*from..*to)) else { continue };
        out.push_str(&output::plain(before));
        let marked = output::plain(marked);
        if colours {
            out.push_str(&format!("\u{1b}[1;33m{marked}\u{1b}[0m"));
        } else {
            out.push_str(&marked);
        }
        at = *to;
    }
    out.push_str(&output::plain(passage.text.get(at..).unwrap_or_default()));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_are_marked_and_the_text_cannot_steer_the_terminal() {
        let passage = Passage { text: "a sort\u{1b}[31m spills".into(), marks: vec![(2, 6)] };
        assert_eq!(highlighted(&passage, true), "a \u{1b}[1;33msort\u{1b}[0m [31m spills");
        assert_eq!(highlighted(&passage, false), "a sort [31m spills");
    }
}
