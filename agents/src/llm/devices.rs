//! The devices that llama.cpp can compute on. They are listed by the model's own process: a driver that crashes must not
//! take the caller along.

use std::io::{Error, ErrorKind};
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use llama_cpp_2::{LlamaBackendDeviceType, list_llama_ggml_backend_devices};
use serde::{Deserialize, Serialize};
use tokio::io::AsyncReadExt;
use tokio::process::Command;
use tokio::time::timeout;

use super::LlmError;
use super::process::harmless;

/// Longest time for drivers to come up.
const PATIENCE: Duration = Duration::from_secs(60);
/// Longest list in bytes.
const LONGEST: usize = 1 << 20;

/// One device.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Such as `Vulkan0`.
    pub name: String,
    /// What the hardware calls itself.
    pub description: String,
    /// Such as `CUDA`.
    pub backend: String,
    /// `cpu`, `gpu`, `integrated`, `accelerator` or `unknown`.
    pub kind: String,
    /// Memory in bytes; 0 where the backend does not say.
    pub total: u64,
    /// Of it, what is free.
    pub free: u64,
}

/// Asks a process that runs models (`exe` with `arguments`) for its devices.
///
/// # Errors
/// [`LlmError::Unavailable`] when the process does not start, crashes or does not answer in time.
pub async fn list(exe: &Path, arguments: &[String]) -> Result<Vec<Device>, LlmError> {
    let refuse = |why: String| LlmError::Unavailable(format!("the devices cannot be listed: {why}"));
    let mut command = Command::new(exe);
    let environment = std::env::vars_os().filter(|(name, _)| harmless(&name.to_string_lossy()));
    command.args(arguments).arg("--devices").env_clear().envs(environment).kill_on_drop(true);
    let ended = timeout(PATIENCE, run(command)).await.map_err(|_| refuse("the drivers did not answer in time".to_owned()))?;
    let (status, printed) = ended.map_err(|e| refuse(e.to_string()))?;
    if !status.success() {
        return Err(refuse(format!("the process ended with {status}")));
    }
    serde_json::from_slice(&printed).map_err(|e| refuse(e.to_string()))
}

/// How the process ended and what it printed, which is no more than a list takes.
async fn run(mut command: Command) -> std::io::Result<(ExitStatus, Vec<u8>)> {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    let mut printed = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        stdout.take(LONGEST as u64 + 1).read_to_end(&mut printed).await?;
    }
    if printed.len() > LONGEST {
        return Err(Error::new(ErrorKind::InvalidData, format!("it printed more than {LONGEST} bytes")));
    }
    Ok((child.wait().await?, printed))
}

/// Prints the devices of this process as JSON. Returns the exit code.
pub(super) fn print() -> i32 {
    let devices: Vec<Device> = list_llama_ggml_backend_devices()
        .into_iter()
        .map(|device| Device {
            name: device.name,
            description: device.description,
            backend: device.backend,
            kind: match device.device_type {
                LlamaBackendDeviceType::Cpu => "cpu",
                LlamaBackendDeviceType::Gpu => "gpu",
                LlamaBackendDeviceType::IntegratedGpu => "integrated",
                LlamaBackendDeviceType::Accelerator => "accelerator",
                LlamaBackendDeviceType::Unknown => "unknown",
            }
            .to_owned(),
            total: device.memory_total as u64,
            free: device.memory_free as u64,
        })
        .collect();
    match serde_json::to_string(&devices) {
        Ok(json) => {
            println!("{json}");
            0
        }
        Err(_) => 70,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_process_gets_none_of_the_daemons_secrets() {
        // Cargo sets a variable for tests that no library needs, as a secret is one.
        let script = |test: &str| ["-c".to_owned(), format!("{test} && printf '[]'")];
        let sh = Path::new("/bin/sh");
        assert_eq!(list(sh, &script("test -z \"$CARGO_MANIFEST_DIR\"")).await, Ok(Vec::new()));
        assert!(list(sh, &script("false")).await.is_err());
    }

    #[tokio::test]
    async fn a_list_without_end_takes_no_memory_without_end() {
        let endless = list(Path::new("/bin/sh"), &["-c".to_owned(), "exec cat /dev/zero".to_owned()]).await;
        assert!(matches!(&endless, Err(LlmError::Unavailable(why)) if why.contains("more than 1048576 bytes")), "{endless:?}");
    }
}
