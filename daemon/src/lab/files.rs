//! The lab's data files, embedded at build time from `examples/lab`.

include!(concat!(env!("OUT_DIR"), "/lab_files.rs"));

/// The folder of suites among the schemas.
const SUITES: &str = "suites";

/// Text of an embedded file by its path below `examples/lab`.
pub fn text(path: &str) -> Option<&'static str> {
    FILES.iter().find(|(name, _)| *name == path).map(|(_, text)| *text)
}

/// Schema, name and text of every fault, in order of schema and name; the shop comes first.
pub fn faults() -> Vec<(&'static str, &'static str, &'static str)> {
    let mut found: Vec<_> = FILES
        .iter()
        .filter_map(|(path, text)| {
            let (schema, file) = path.split_once('/')?;
            let name = file.strip_suffix(".toml")?;
            (schema != SUITES && name != "baseline").then_some((schema, name, *text))
        })
        .collect();
    found.sort_by_key(|(schema, name, _)| (*schema != "shop", *schema, *name));
    found
}

/// Name and text of every suite.
pub fn suites() -> Vec<(&'static str, &'static str)> {
    FILES.iter().filter_map(|(path, text)| Some((path.strip_prefix(SUITES)?.strip_prefix('/')?.strip_suffix(".toml")?, *text))).collect()
}
