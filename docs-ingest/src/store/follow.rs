//! Following the store a page at a time: what follows it may be far behind, and everything at once would not fit in memory.

use std::collections::HashSet;

use galen_knowledge::chunk::KnowledgeChunk;
use rusqlite::TransactionBehavior;

use super::{Store, StoreError};

/// A part of what changed.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// Chunks that are new or have changed; more follow.
    Shown(Vec<KnowledgeChunk>),
    /// The last step: ids of chunks that are gone, and the revision that all steps together lead to.
    Gone(Vec<String>, i64),
}

impl Store {
    /// Tells what changed after a revision to whoever has the chunks `known` of it: pages of at most `page` chunks, then
    /// what is gone. All of it is of one moment. Where nothing changed, nothing is told.
    ///
    /// # Errors
    /// Of SQLite, and those that `on` returns.
    pub fn follow<E: From<StoreError>>(
        &self,
        revision: i64,
        known: &[String],
        page: usize,
        on: &mut dyn FnMut(Step) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut connection = self.connection();
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Deferred).map_err(StoreError::from)?;
        let (now, oldest): (i64, i64) = transaction
            .query_row("SELECT revision, oldest FROM about", [], |row| Ok((row.get(0)?, row.get(1)?)))
            .map_err(StoreError::from)?;
        if revision == now {
            return Ok(());
        }
        let all = revision < oldest || revision > now;
        let since = if all { -1 } else { revision };
        let mut after = -1i64;
        loop {
            let mut chunks = Vec::new();
            let mut query = transaction
                .prepare_cached("SELECT row, body FROM chunk WHERE same_as IS NULL AND revision > ?1 AND row > ?2 ORDER BY row LIMIT ?3")
                .map_err(StoreError::from)?;
            let mut rows = query.query((since, after, page as i64)).map_err(StoreError::from)?;
            while let Some(row) = rows.next().map_err(StoreError::from)? {
                after = row.get(0).map_err(StoreError::from)?;
                let body: String = row.get(1).map_err(StoreError::from)?;
                chunks.push(serde_json::from_str(&body).map_err(StoreError::from)?);
            }
            if chunks.is_empty() {
                break;
            }
            on(Step::Shown(chunks))?;
        }
        let ids = |sql: &str, since: Option<i64>| -> Result<Vec<String>, StoreError> {
            let mut query = transaction.prepare_cached(sql)?;
            let rows = query.query_map(rusqlite::params_from_iter(since), |row| row.get(0))?;
            Ok(rows.collect::<Result<_, _>>()?)
        };
        let gone = if all {
            let there: HashSet<String> = ids("SELECT id FROM chunk WHERE same_as IS NULL", None)?.into_iter().collect();
            known.iter().filter(|id| !there.contains(*id)).cloned().collect()
        } else {
            ids("SELECT id FROM gone WHERE revision > ?1 ORDER BY id", Some(since))?
        };
        on(Step::Gone(gone, now))
    }
}
