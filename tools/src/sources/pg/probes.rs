//! The table of probes: SQL files by name, each with the server version from which it applies.

use std::collections::HashSet;
use std::sync::OnceLock;

use super::text::fingerprint;

/// One probe: variants from the newest to the oldest server.
#[derive(Debug)]
pub(super) struct Probe {
    /// Name in the bill.
    pub name: &'static str,
    /// Server may take this long, milliseconds.
    pub timeout_ms: u32,
    variants: &'static [(i32, &'static str)],
}

impl Probe {
    /// The SQL for a server of this `server_version_num`, if the probe exists there.
    pub fn sql(&self, version_num: i32) -> Option<&'static str> {
        self.variants.iter().find(|(from, _)| version_num / 10_000 >= *from).map(|(_, sql)| *sql)
    }
}

macro_rules! probes {
    ($($const:ident $name:literal $timeout:ident [$($from:literal),+];)+) => {
        $(pub(super) static $const: Probe = Probe {
            name: $name,
            timeout_ms: $timeout,
            variants: &[$(($from, include_str!(concat!("../../../probes/", $name, ".", $from, ".sql")))),+],
        };)+
        static ALL: &[&Probe] = &[$(&$const),+];
    };
}

/// For what runs every second.
const FAST: u32 = 500;
/// For everything else.
const SLOW: u32 = 2_000;

probes! {
    FACTS "facts" SLOW [13];
    SESSIONS "sessions" FAST [14, 13];
    SESSION_TEXTS "session_texts" FAST [14];
    LOCKS "locks" FAST [13];
    DATABASE "database" FAST [14, 13];
    SERVER "server" SLOW [18, 17, 13];
    HOLDERS "holders" SLOW [13];
    ROLE "role" FAST [13];
    STATEMENTS "statements" SLOW [15, 13];
    STATEMENT_TEXTS "statement_texts" SLOW [13];
    TABLES "tables" SLOW [13];
    SIZES "sizes" SLOW [13];
    INDEXES "indexes" SLOW [13];
    INDEX_DEFINITIONS "index_definitions" SLOW [13];
    SETTINGS "settings" SLOW [13];
    PLAN_COLUMNS "plan_columns" SLOW [13];
    PLAN_SAFETY "plan_safety" SLOW [13];
    HYPOPG_SCHEMA "hypopg_schema" SLOW [13];
}

/// Stands in every probe after its first word, so that Galen knows its own statements in pg_stat_statements.
pub(super) const MARK: &str = "/* galen */";

/// True when the text is that of a probe, whoever ran it: nobody hides a load of his own by running Galen's statements.
pub(super) fn is_probe(query: &str) -> bool {
    static PRINTS: OnceLock<HashSet<i64>> = OnceLock::new();
    let prints = PRINTS.get_or_init(|| ALL.iter().flat_map(|probe| probe.variants).map(|(_, sql)| fingerprint(sql)).collect());
    query.contains(MARK) && prints.contains(&fingerprint(query))
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn every_probe_is_one_marked_query_and_nothing_else() {
        for probe in ALL {
            for (_, sql) in probe.variants {
                let parsed = pg_query::parse(sql, 0).expect(probe.name);
                assert_eq!(parsed.protobuf.stmts.len(), 1, "{}", probe.name);
                assert_eq!(parsed.statement_types(), ["SelectStmt"], "{}", probe.name);
                assert!(sql.contains(MARK), "{}", probe.name);
            }
        }
    }

    #[test]
    fn a_probe_is_known_with_its_constants_replaced_and_a_mark_alone_is_none() {
        let sql = STATEMENT_TEXTS.sql(150_000).unwrap();
        let stored = pg_query::normalize(sql).unwrap();
        assert_ne!(stored, sql);
        assert!(is_probe(sql) && is_probe(&stored));
        assert!(!is_probe("SELECT /* galen */ count(*) FROM accounts") && !is_probe("SELECT 1"));
    }

    #[test]
    fn the_newest_variant_that_applies_is_chosen() {
        assert!(SERVER.sql(160_004).is_some_and(|sql| sql.contains("pg_stat_bgwriter")));
        assert!(SERVER.sql(170_000).is_some_and(|sql| sql.contains("pg_stat_checkpointer")));
        assert!(SERVER.sql(190_000).is_some_and(|sql| sql.contains("write_bytes")));
        assert!(SESSION_TEXTS.sql(130_010).is_none());
    }
}
