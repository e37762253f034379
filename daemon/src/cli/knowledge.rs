//! `galen ingest` and `galen knowledge`: documents in, and what is known of them.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use indicatif::{HumanBytes, ProgressBar, ProgressStyle};
use nix::sys::resource::{Resource, setrlimit};
use serde_json::json;

use galen_docs_ingest::extract::Extractor;
use galen_docs_ingest::ingest::{Event, Options, Outcome, ingest};
use galen_docs_ingest::read::{self, Reading};
use galen_docs_ingest::store::Store;
use galen_docs_ingest::tree::SummaryTree;
use galen_docs_ingest::watch::Watcher;
use galen_knowledge::chunk::KnowledgeChunk;

use super::{Global, graph};
use crate::failure::Failure;
use crate::proposer::Proposer;
use crate::shelf::{Shelf, embedder};
use crate::signals::Signals;
use crate::{engine, output};

/// Most memory of the process that reads a PDF, and most seconds that it may compute.
const WORKER_MEMORY: u64 = 256 << 20;
const WORKER_SECONDS: u64 = 60;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  galen ingest runbooks/ wiki-export.docx
  galen ingest /usr/share/doc/postgresql-doc-15/html
  galen ingest runbooks/ --watch

Reads Markdown, HTML, PDF, DOCX, EPUB and plain text, English and Chinese. Only what changed is read; what is gone is
forgotten. Ends with 5 when a file could not be read: each is named with the reason, and all others are taken in.")]
pub struct IngestArgs {
    /// Documents, or folders of documents
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Go on: take in what changes, until interrupted
    #[arg(long)]
    watch: bool,
    /// Language model that confirms or refuses the causes which the rules find; slow
    #[arg(long, conflicts_with = "watch")]
    model: Option<String>,
    /// Files read at a time [default: the number of CPUs]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    jobs: Option<u16>,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  galen knowledge list
  galen knowledge show runbooks/locks.md
  galen knowledge show --json > chunks.jsonl
  galen knowledge tree runbooks/locks.md
  galen knowledge graph --svg graph.svg")]
pub struct KnowledgeArgs {
    #[command(subcommand)]
    command: KnowledgeCommand,
}

#[derive(Debug, Subcommand)]
enum KnowledgeCommand {
    /// Name the documents that were taken in
    List,
    /// Print the pieces that are known of a document, with the causes, signals and steps found in them
    Show {
        /// As for `tree`; without one, all that was taken in
        document: Option<String>,
    },
    /// Print a document's sections, each with what it says in short
    Tree {
        /// Path of a document, or the end of one; a file that was not taken in is read, and not kept
        document: String,
    },
    /// How causes, signals, documents and remedies hang together
    Graph(graph::GraphArgs),
}

#[derive(Debug, Args)]
pub struct WorkerArgs {
    path: PathBuf,
}

/// `galen ingest`.
pub async fn take_in(global: &Global, args: IngestArgs) -> Result<(), Failure> {
    let config = global.load()?;
    let (models_dir, data_dir) = (config.model.folder(), config.data_dir);
    let extractor: Box<dyn Extractor> = match &args.model {
        Some(name) => {
            let provider = engine::chosen(&global.load()?, name, 2, 600).await?;
            Box::new(Proposer::new(engine::rules()?, &engine::builtin()?, provider, tokio::runtime::Handle::current()))
        }
        None => Box::new(engine::rules()?),
    };
    let program = std::env::current_exe().map_err(|e| Failure::fault(format!("cannot find this program: {e}")))?;
    let cpus = std::thread::available_parallelism().map_or(2, usize::from);
    let work = Work {
        options: Options {
            roots: args.paths,
            except: data_dir.clone(),
            // What a model is asked depends on what it has seen: one file after another, the same each time.
            jobs: if args.model.is_some() { 1 } else { args.jobs.map_or(cpus, usize::from) },
            reading: Reading { pdf_worker: Some(vec![program.into(), "doc-worker".into()]) },
        },
        extractor,
        data_dir,
        models_dir,
        json: global.json,
        watch: args.watch,
    };
    let stop = Arc::new(AtomicBool::new(false));
    let mut signals = Signals::listen()?;
    let seen = Arc::clone(&stop);
    let mut running = tokio::task::spawn_blocking(move || work.run(&seen));
    let ending = tokio::select! {
        done = &mut running => return done.map_err(|e| Failure::fault(e.to_string()))?,
        ending = signals.next() => ending,
    };
    // What is being read is finished and stored.
    stop.store(true, Ordering::Relaxed);
    running.await.map_err(|e| Failure::fault(e.to_string()))??;
    Err(ending.failure("; what was read is kept, run it again to go on"))
}

struct Work {
    options: Options,
    extractor: Box<dyn Extractor>,
    data_dir: PathBuf,
    models_dir: PathBuf,
    json: bool,
    watch: bool,
}

impl Work {
    fn run(&self, stop: &AtomicBool) -> Result<(), Failure> {
        let store = Store::open(&self.data_dir)?;
        // Watching begins first: what changes while the first round reads is seen too.
        let watcher = match self.watch {
            true => Some(Watcher::new(&self.options.roots, &self.data_dir).map_err(Failure::input)?),
            false => None,
        };
        let outcome = self.round(&store, stop, true)?;
        let Some(watcher) = watcher else {
            return match (outcome.stopped, outcome.failed) {
                (false, failed) if failed > 0 => {
                    Err(Failure::input(format!("{failed} could not be read, each is named above; the rest is taken in")))
                }
                _ => Ok(()),
            };
        };
        output::tell("watching; interrupt to end");
        while watcher.wait(|| stop.load(Ordering::Relaxed)) {
            self.round(&store, stop, false)?;
        }
        Ok(())
    }

    fn round(&self, store: &Store, stop: &AtomicBool, first: bool) -> Result<Outcome, Failure> {
        let board = Board::new(self.json, first);
        let outcome = ingest(store, self.extractor.as_ref(), &self.options, stop, &mut |event| board.show(event))?;
        let read = board.began.elapsed();
        // So that no search has to wait for it. What is read is kept, whatever becomes of the index.
        let indexed = engine::builtin().and_then(|catalog| Shelf::open(&catalog, &self.data_dir, embedder(&self.models_dir).ok()));
        if let Err(why) = indexed {
            output::tell(&format!("galen: the index is not up to date: {why}; the next search tries again"));
        }
        board.finish(&outcome, read);
        Ok(outcome)
    }
}

/// Progress: a bar with the rate and the time left on a terminal, a line for each file that could not be read.
struct Board {
    json: bool,
    first: bool,
    bar: ProgressBar,
    began: Instant,
    files: RefCell<(usize, usize)>,
}

impl Board {
    fn new(json: bool, first: bool) -> Self {
        let bar = ProgressBar::new(0);
        if let Ok(style) = ProgressStyle::with_template("{bar:30} {bytes}/{total_bytes} {bytes_per_sec} {eta} left  {msg}") {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(200));
        Self { json, first, bar, began: Instant::now(), files: RefCell::default() }
    }

    fn show(&self, event: &Event) {
        let line = match event {
            Event::Planned { files, bytes } => {
                self.bar.set_length(*bytes);
                self.files.borrow_mut().1 = *files;
                return;
            }
            Event::Read { path, bytes, chunks } => {
                self.advance(*bytes);
                json!({"path": path, "state": "read", "bytes": bytes, "chunks": chunks})
            }
            Event::Same { path, bytes } => {
                self.advance(*bytes);
                json!({"path": path, "state": "same", "bytes": bytes})
            }
            Event::Failed { path, bytes, why, kept } => {
                self.advance(*bytes);
                let kept = if *kept > 0 { format!("; the {kept} chunks of its last readable version stay") } else { String::new() };
                self.bar.suspend(|| output::tell(&format!("galen: {}", output::plain(&format!("{path}: {why}{kept}")))));
                json!({"path": path, "state": "failed", "error": why})
            }
            Event::Removed { path } => json!({"path": path, "state": "removed"}),
        };
        if self.json {
            output::progress(&line.to_string());
        }
    }

    fn advance(&self, bytes: u64) {
        let mut files = self.files.borrow_mut();
        files.0 += 1;
        self.bar.inc(bytes);
        self.bar.set_message(format!("{} of {} files", files.0, files.1));
    }

    /// Sums up: what was read in which time, and the rest until now, in which it was indexed.
    fn finish(&self, outcome: &Outcome, read_in: Duration) {
        self.bar.finish_and_clear();
        let seconds = read_in.as_secs_f64();
        let index_s = self.began.elapsed().saturating_sub(read_in).as_secs_f64();
        let Outcome { files, read, unchanged, removed, failed, others, chunks, merged, bytes, revision, stopped } = *outcome;
        if !self.first && read + removed + failed == 0 {
            return;
        }
        let rate = bytes as f64 / 1e6 / seconds.max(1e-3);
        output::progress(&match self.json {
            true => json!({"files": files, "read": read, "unchanged": unchanged, "removed": removed, "failed": failed, "others": others,
                "chunks": chunks, "merged": merged, "bytes": bytes, "seconds": (seconds * 1e3).round() / 1e3,
                "mb_per_s": (rate * 100.0).round() / 100.0, "index_s": (index_s * 1e3).round() / 1e3, "revision": revision,
                "stopped": stopped})
            .to_string(),
            false => format!(
                "{read} read ({} in {seconds:.2} s, {rate:.1} MB/s), {unchanged} unchanged, {removed} removed, {failed} failed; \
                 {chunks} new chunks, {merged} of them merged into others; indexed in {index_s:.2} s",
                HumanBytes(bytes)
            ),
        });
    }
}

/// `galen knowledge`.
pub fn knowledge(global: &Global, args: &KnowledgeArgs) -> Result<(), Failure> {
    let data_dir = global.load()?.data_dir;
    match &args.command {
        KnowledgeCommand::List => list(global, &data_dir),
        KnowledgeCommand::Show { document } => show(global, &data_dir, document.as_deref()),
        KnowledgeCommand::Tree { document } => tree(global, &data_dir, document),
        KnowledgeCommand::Graph(args) => graph::graph(global, args),
    }
}

fn list(global: &Global, data_dir: &Path) -> Result<(), Failure> {
    let documents = Store::open_existing(data_dir)?.map(|store| store.documents()).transpose()?.unwrap_or_default();
    for document in documents {
        output::line(&match global.json {
            true => json!({"path": document.path, "title": document.title, "bytes": document.size, "chunks": document.chunks, "error": document.error})
                .to_string(),
            false => {
                let state = document.error.map_or_else(|| output::plain(&document.title), |why| output::plain(&format!("failed: {why}")));
                format!("{:>6} chunks  {}  {state}", document.chunks, output::plain(&document.path))
            }
        });
    }
    Ok(())
}

/// One chunk a line with `--json`, in the form that `galen bench retrieval --documents` reads.
fn show(global: &Global, data_dir: &Path, document: Option<&str>) -> Result<(), Failure> {
    let chunks = match document {
        Some(document) => find(data_dir, document)?.1,
        None => {
            let stored = Store::open_existing(data_dir)?.map(|store| store.chunks()).transpose()?.unwrap_or_default();
            stored.into_iter().map(|stored| stored.chunk).collect()
        }
    };
    for chunk in &chunks {
        if global.json {
            output::line(&serde_json::to_string(chunk).map_err(|e| Failure::fault(e.to_string()))?);
            continue;
        }
        let page = chunk.source.page.map(|page| format!("page {page}, ")).unwrap_or_default();
        output::line(&output::plain(&chunk.source.section.join(" > ")));
        output::line(&format!("  {} ({page}byte {})", output::plain(&chunk.source.file), chunk.source.offset));
        for (what, names) in [("causes", &chunk.causes), ("signals", &chunk.signals), ("steps", &chunk.steps)] {
            if !names.is_empty() {
                output::line(&format!("  {what}: {}", output::plain(&names.join("; "))));
            }
        }
        chunk.content.lines().for_each(|line| output::line(&format!("  {}", output::plain(line))));
    }
    Ok(())
}

fn tree(global: &Global, data_dir: &Path, document: &str) -> Result<(), Failure> {
    let (title, chunks) = find(data_dir, document)?;
    let tree = SummaryTree::new(&title, &chunks);
    if !global.json {
        output::text(&tree.print());
        return Ok(());
    }
    tree.walk(|depth, node| {
        let line = json!({"depth": depth, "title": node.title, "tokens": node.tokens, "summary": node.summary, "chunks": node.chunks});
        output::line(&line.to_string());
    });
    Ok(())
}

/// Title and chunks of a document: one that was taken in, a file, or a shipped runbook.
fn find(data_dir: &Path, wanted: &str) -> Result<(String, Vec<KnowledgeChunk>), Failure> {
    let store = Store::open_existing(data_dir)?;
    let full = Path::new(wanted).canonicalize().ok();
    if let Some(store) = &store {
        let documents = store.documents()?;
        let exact = documents.iter().find(|d| full.as_deref() == Some(Path::new(&d.path)) || d.path == wanted);
        let ending: Vec<_> = documents.iter().filter(|d| Path::new(&d.path).ends_with(wanted)).collect();
        let one = match (exact, ending.as_slice()) {
            (None, [one, two, ..]) => {
                return Err(Failure::usage(format!("`{wanted}` may be {} or {}: give more of the path", one.path, two.path)));
            }
            (exact, ending) => exact.or(ending.first().copied()),
        };
        if let Some(document) = one {
            return Ok((document.title.clone(), store.of_document(&document.path)?));
        }
    }
    if let Some(file) = full.filter(|path| path.is_file()) {
        let document = read::read(&file, &Reading::default()).map_err(|e| Failure::input(format!("{wanted}: {e}")))?;
        let title = document.title.clone().unwrap_or_else(|| wanted.to_owned());
        return Ok((title, engine::rules()?.extract(wanted, &document)));
    }
    let shipped: Vec<KnowledgeChunk> = engine::shipped()?.into_iter().filter(|chunk| chunk.source.file == wanted).collect();
    if shipped.is_empty() {
        return Err(Failure::usage(format!("there is no document `{wanted}`: see galen knowledge list, or take it in with galen ingest")));
    }
    Ok((wanted.to_owned(), shipped))
}

/// Reads one document within bounds that the system keeps, and prints it for the process that asked.
pub fn worker(args: &WorkerArgs) -> Result<(), Failure> {
    for (resource, most) in [(Resource::RLIMIT_DATA, WORKER_MEMORY), (Resource::RLIMIT_CPU, WORKER_SECONDS), (Resource::RLIMIT_CORE, 0)] {
        setrlimit(resource, most, most).map_err(|e| Failure::fault(format!("cannot bound the reader: {e}")))?;
    }
    // On a thread with the stack and the name of those that read.
    let path = args.path.clone();
    let thread = std::thread::Builder::new().name(galen_docs_ingest::ingest::READER_THREAD.to_owned()).stack_size(16 << 20);
    let answer = thread.spawn(move || read::answer(&path)).map_err(|e| Failure::fault(e.to_string()))?.join();
    output::line(&answer.map_err(|_| Failure::fault("the reader failed"))?);
    Ok(())
}
