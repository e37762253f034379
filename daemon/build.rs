//! Embeds every file of the fault lab: adding a schema, a fault or a suite is adding a file.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

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
    std::fs::write(Path::new(&std::env::var("OUT_DIR").unwrap_or_default()).join("lab_files.rs"), code)
}

fn children(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    std::fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect()
}
