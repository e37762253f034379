//! Embeds every file of the fault lab (adding a schema, a fault or a suite is adding a file), and a digest of the sources.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

fn main() -> std::io::Result<()> {
    let root = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
    let lab = Path::new(&root).join("../examples/lab");
    println!("cargo:rerun-if-changed={}", lab.display());
    let mut files = Vec::new();
    // D-Bot's kinds of workload are files of another form, embedded where they are read.
    for folder in children(&lab)?.into_iter().filter(|path| path.is_dir() && !path.ends_with("dbot")) {
        println!("cargo:rerun-if-changed={}", folder.display());
        files.extend(children(&folder)?.into_iter().filter(|path| path.extension().is_some_and(|it| it == "toml" || it == "sql")));
    }
    files.sort();
    let mut code = String::from("const FILES: &[(&str, &str)] = &[\n");
    for file in files {
        let name = file.strip_prefix(&lab).unwrap_or(&file).display().to_string();
        let _ = writeln!(code, "    ({name:?}, include_str!({:?})),", file.display().to_string());
    }
    code.push_str("];\n");
    std::fs::write(Path::new(&std::env::var("OUT_DIR").unwrap_or_default()).join("lab_files.rs"), code)?;
    // Not GALEN_..: the configuration reads those, and cargo hands this one to the tests.
    println!("cargo:rustc-env=SOURCES_DIGEST={}", sources(&Path::new(&root).join(".."))?);
    Ok(())
}

/// Twelve digits of the SHA-256 over whatever decides what Galen answers: two builds of one version may differ.
fn sources(root: &Path) -> std::io::Result<String> {
    let mut files = vec![root.join("Cargo.lock"), root.join("Cargo.toml")];
    files.iter().for_each(|file| println!("cargo:rerun-if-changed={}", file.display()));
    let mut open: Vec<PathBuf> =
        ["daemon", "agents", "tools", "knowledge", "docs-ingest", "examples/lab"].map(|name| root.join(name)).into();
    while let Some(folder) = open.pop() {
        println!("cargo:rerun-if-changed={}", folder.display());
        for entry in std::fs::read_dir(&folder)? {
            let entry = entry?;
            let (kind, path, name) = (entry.file_type()?, entry.path(), entry.file_name());
            let name = name.to_string_lossy();
            // Neither tests nor what editors leave decide anything; links are not followed.
            let no_source = ["tests", "testdata", "target", "proptest-regressions"].contains(&&*name);
            if no_source || name.starts_with('.') || name.ends_with('~') {
                continue;
            }
            if kind.is_dir() {
                open.push(path);
            } else if kind.is_file() {
                files.push(path);
            }
        }
    }
    files.sort();
    let mut digest = Sha256::new();
    for file in files {
        digest.update(file.strip_prefix(root).unwrap_or(&file).display().to_string());
        digest.update(Sha256::digest(std::fs::read(&file)?));
    }
    Ok(digest.finalize().iter().take(6).map(|byte| format!("{byte:02x}")).collect())
}

fn children(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    std::fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect()
}
