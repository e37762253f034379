//! What a DBA would notice, proved on a real private server.

mod collecting;
mod limits;
mod probing;
mod refusing;

/// Time at which tests pretend to begin, milliseconds.
const T0: i64 = 1_800_000_000_000;
