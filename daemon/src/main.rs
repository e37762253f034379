//! `galen`: parses the command line, builds a runtime and calls one function. Everything else is in the modules.

mod ask;
mod cli;
mod config;
mod demo;
mod diagnoses;
mod engine;
mod failure;
mod http;
mod lab;
mod living;
mod output;
mod parallel;
mod private;
mod proposer;
mod recording;
mod rpc;
mod serve;
mod shelf;
mod signals;
mod state;
mod target;
mod turns;

use clap::Parser;

fn main() {
    std::panic::set_hook(Box::new(|panic| {
        // A document's reader: its panic is caught and told with the file's name.
        if std::thread::current().name() == Some(galen_docs_ingest::ingest::READER_THREAD) {
            return;
        }
        let place = panic.location().map(|l| format!(" at {}:{}", l.file(), l.line())).unwrap_or_default();
        output::tell(&format!("galen: a fault of ours{place}; please report it with the command you ran"));
        tracing::debug!(%panic, "panic");
    }));
    let cli = cli::Cli::parse();
    let code = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => {
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| runtime.block_on(cli::run(cli))));
            // A blocking call of a library may outlive us: do not wait for it.
            runtime.shutdown_background();
            match outcome {
                Ok(Ok(())) => 0,
                Ok(Err(failure)) => {
                    output::tell(&format!("galen: {failure}"));
                    failure.code
                }
                Err(_) => failure::FAULT,
            }
        }
        Err(error) => {
            output::tell(&format!("galen: cannot start the runtime: {error}"));
            failure::FAULT
        }
    };
    std::process::exit(i32::from(code));
}
