//! Tools that look at sessions, locks, storage, settings and the host.

mod blocking;
mod events;
mod host;
mod load;
mod server;
mod storage;
mod volume;

use crate::observe::{Observation, Scene};

/// Name and help of every tool of this module.
pub const TOOLS: &[(&str, &str)] = &[
    ("load_profile", "where active session time goes, by wait class"),
    ("blocking", "who blocks whom, down to the root of the lock queue"),
    ("idle_transactions", "sessions idle in a transaction, and who waits for them"),
    ("dead_rows", "the table that gains most dead rows"),
    ("sparse_indexes", "the index that takes far more bytes a row than an entry does"),
    ("vacuum", "vacuum workers, the oldest snapshot and who holds it, age of frozen ids"),
    ("checkpoints", "requested and timed checkpoints, buffers written"),
    ("wal", "waits for WAL, commits and WAL bytes"),
    ("cache", "buffer cache hits and reads"),
    ("connections", "connections in use, idle ones, how fast they come"),
    ("host", "CPU, memory, disks, network and pressure of the host"),
    ("replication", "replicas and slots that lag"),
    ("archiver", "failed WAL archiving"),
    ("errors", "rollbacks, deadlocks, restarts"),
    ("settings", "settings that matter, and those that changed"),
    ("events", "events of a managed service: those of the incident, and those that were over before"),
    ("storage", "free storage of a managed instance, how fast it goes, and writes that have stopped"),
    ("traffic", "transactions and rows per second"),
];

/// Runs a tool of this module by name.
pub fn observe(name: &str, scene: &Scene<'_>) -> Option<Observation> {
    Some(match name {
        "load_profile" => load::load_profile(scene),
        "traffic" => load::traffic(scene),
        "wal" => load::wal(scene),
        "blocking" => blocking::blocking(scene),
        "idle_transactions" => blocking::idle_transactions(scene),
        "dead_rows" => storage::dead_rows(scene),
        "sparse_indexes" => storage::sparse_indexes(scene),
        "vacuum" => storage::vacuum(scene),
        "checkpoints" => storage::checkpoints(scene),
        "cache" => storage::cache(scene),
        "connections" => server::connections(scene),
        "replication" => server::replication(scene),
        "archiver" => server::archiver(scene),
        "errors" => server::errors(scene),
        "settings" => server::settings(scene),
        "events" => events::events(scene),
        "storage" => volume::storage(scene),
        "host" => host::host(scene),
        _ => return None,
    })
}
