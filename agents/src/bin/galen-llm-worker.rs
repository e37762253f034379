//! The model's process as a program of its own, so that tests can start it without the daemon.

fn main() -> std::process::ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let code = galen_agents::llm::worker_main(&arguments);
    std::process::ExitCode::from(u8::try_from(code).unwrap_or(70))
}
