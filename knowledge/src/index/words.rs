//! BM25 over tantivy's postings, a term at a time into one sum for each document.
//!
//! A query here has many terms, few of them rare, and wants fifty documents: hopping from document to document, as
//! tantivy's own search does, then skips little and costs some 30 ns a posting, adding up block by block a few.

use std::cell::RefCell;

use tantivy::postings::BlockSegmentPostings;
use tantivy::query::{Bm25StatisticsProvider, Bm25Weight};
use tantivy::schema::{Field, IndexRecordOption};
use tantivy::{Score, Searcher, SegmentReader, TantivyError, Term};

/// Postings of a query's terms that are read, beyond those of its [`RAREST`]: they are what a search costs.
const MOST_POSTINGS: u64 = 120_000;
const RAREST: usize = 2;

/// Documents that are looked at together when the best are sought.
const BLOCK: usize = 64;

thread_local! {
    /// The sums of a search, four bytes for each document: made anew they would cost a tenth of it.
    static SUMS: RefCell<Vec<Score>> = const { RefCell::new(Vec::new()) };
}

/// A document: its segment and its number in it.
pub type Place = (usize, u32);

/// The best documents that hold any of the terms, with their scores: `limit` of them and those that are as good as the
/// last, in no order.
///
/// # Errors
/// tantivy's: the index is damaged.
pub fn best(searcher: &Searcher, field: Field, terms: &[String], limit: usize) -> Result<Vec<(Score, Place)>, TantivyError> {
    let telling = telling(searcher, field, terms, MOST_POSTINGS)?;
    if telling.is_empty() || limit == 0 {
        return Ok(Vec::new());
    }
    let documents = searcher.total_num_docs()?;
    let length = searcher.total_num_tokens(field)? as Score / documents.max(1) as Score;
    let weighed: Vec<(Term, Bm25Weight)> =
        telling.into_iter().map(|(held, term)| (term, Bm25Weight::for_one_term_without_explain(held, documents, length))).collect();
    SUMS.with_borrow_mut(|sums| {
        sums.clear();
        let mut segments = Vec::with_capacity(searcher.segment_readers().len());
        for segment in searcher.segment_readers() {
            let from = sums.len();
            sums.resize(from + segment.max_doc() as usize, 0.0);
            add_up(segment, field, &weighed, &mut sums[from..])?;
            segments.push((from, sums.len()));
        }
        let Some(least) = least_of_best(sums, limit) else { return Ok(Vec::new()) };
        let found = blocks_with(sums, least).flat_map(|(at, block)| (at..).zip(block).filter(|(_, sum)| **sum >= least));
        let place = |at: usize| segments.iter().position(|(from, to)| (*from..*to).contains(&at));
        let found = found.filter_map(|(at, sum)| place(at).map(|segment| (*sum, (segment, (at - segments[segment].0) as u32))));
        Ok(found.collect())
    })
}

/// The least score of the best `limit` documents; none where nothing is found.
fn least_of_best(sums: &[Score], limit: usize) -> Option<Score> {
    // The scores of the best so far, the least last.
    let mut top: Vec<Score> = Vec::with_capacity(limit + 1);
    for block in sums.chunks(BLOCK) {
        let bar = if top.len() < limit { 0.0 } else { top.last().copied().unwrap_or(0.0) };
        if largest(block) <= bar {
            continue;
        }
        for sum in block.iter().copied().filter(|sum| *sum > bar) {
            if top.len() < limit || top.last().is_some_and(|least| sum > *least) {
                top.insert(top.partition_point(|other| *other >= sum), sum);
                top.truncate(limit);
            }
        }
    }
    top.last().copied()
}

/// The blocks that hold such a score or a better one, and where they begin.
fn blocks_with(sums: &[Score], least: Score) -> impl Iterator<Item = (usize, &[Score])> {
    let blocks = (0..).step_by(BLOCK).zip(sums.chunks(BLOCK));
    blocks.filter(move |(_, block)| largest(block) >= least)
}

/// The largest of some scores. None is negative, so that their bits are in the same order: several are compared at once.
fn largest(block: &[Score]) -> Score {
    let most = block.iter().fold(0_i32, |most, sum| most.max(sum.to_bits().cast_signed()));
    Score::from_bits(most.cast_unsigned())
}

/// Adds the terms' scores to each document of a segment; a deleted one is left with 0.
fn add_up(segment: &SegmentReader, field: Field, terms: &[(Term, Bm25Weight)], sums: &mut [Score]) -> Result<(), TantivyError> {
    let (postings, lengths) = (segment.inverted_index(field)?, segment.get_fieldnorms_reader(field)?);
    for (term, weight) in terms {
        let Some(mut blocks) = postings.read_block_postings(term, IndexRecordOption::WithFreqs)? else { continue };
        while add(&blocks, sums, |document, count| weight.score(lengths.fieldnorm_id(document), count)) {
            blocks.advance();
        }
    }
    if let Some(alive) = segment.alive_bitset() {
        sums.iter_mut().zip(0..).filter(|(_, document)| alive.is_deleted(*document)).for_each(|(sum, _)| *sum = 0.0);
    }
    Ok(())
}

/// Adds a block; false when it is empty, which is the end.
fn add(block: &BlockSegmentPostings, sums: &mut [Score], score: impl Fn(u32, u32) -> Score) -> bool {
    for (document, count) in block.docs().iter().zip(block.freqs()) {
        if let Some(sum) = sums.get_mut(*document as usize) {
            *sum += score(*document, *count);
        }
    }
    !block.docs().is_empty()
}

/// The terms that tell documents apart with the number of documents that hold each, the rarest first, as many as the
/// budget of postings allows: frequent terms cost most of the time and decide least.
fn telling(searcher: &Searcher, field: Field, terms: &[String], most: u64) -> Result<Vec<(u64, Term)>, TantivyError> {
    let mut counted = Vec::with_capacity(terms.len());
    for text in terms {
        let term = Term::from_field_text(field, text);
        counted.push((searcher.doc_freq(&term)?, term));
    }
    counted.retain(|(held, _)| *held > 0);
    counted.sort();
    let mut postings = 0;
    let kept = counted.iter().enumerate().take_while(|(at, (held, _))| {
        postings += held;
        *at < RAREST || postings <= most
    });
    let kept = kept.count();
    counted.truncate(kept);
    Ok(counted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tantivy::collector::TopDocs;
    use tantivy::query::{BooleanQuery, Query, TermQuery};
    use tantivy::schema::{STRING, Schema, TEXT};
    use tantivy::{Index, IndexWriter, doc};

    /// Three segments of generated documents, every seventh of them deleted.
    fn documents(count: u64) -> (Searcher, Field) {
        let mut builder = Schema::builder();
        let (id, body) = (builder.add_text_field("id", STRING), builder.add_text_field("body", TEXT));
        let index = Index::create_in_ram(builder.build());
        let mut writer: IndexWriter = index.writer_with_num_threads(1, 15_000_000).unwrap();
        writer.set_merge_policy(Box::new(tantivy::indexer::NoMergePolicy));
        let mut seed = 7_u64;
        for n in 0..count {
            // Low words often, high ones rarely, texts of 1 to 40 words.
            let mut draw = |below: u64| {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (seed >> 33) % below
            };
            let words: Vec<String> = (0..=draw(40)).map(|_| format!("w{}", draw(30) * draw(30))).collect();
            writer.add_document(doc!(id => n.to_string(), body => words.join(" "))).unwrap();
            if n % (count / 3 + 1) == count / 3 {
                writer.commit().unwrap();
            }
        }
        (0..count).step_by(7).for_each(|n| {
            writer.delete_term(Term::from_field_text(id, &n.to_string()));
        });
        writer.commit().unwrap();
        (index.reader().unwrap().searcher(), body)
    }

    #[test]
    fn scores_are_those_of_tantivys_own_search() {
        let (searcher, body) = documents(2_000);
        assert!(searcher.segment_readers().len() >= 3 && searcher.segment_readers().iter().any(SegmentReader::has_deletes));
        for words in [&["w0"][..], &["w1", "w841"], &["w2", "w6", "w12", "w0", "w700", "nosuch"], &["nosuch"], &[]] {
            let terms: Vec<String> = words.iter().map(|w| (*w).to_owned()).collect();
            let mut ours = best(&searcher, body, &terms, 20).unwrap();
            ours.sort_by(|a, b| b.0.total_cmp(&a.0));
            let one = |t: &String| Box::new(TermQuery::new(Term::from_field_text(body, t), IndexRecordOption::WithFreqs)) as Box<dyn Query>;
            let query = BooleanQuery::union(terms.iter().map(one).collect());
            let theirs = searcher.search(&query, &TopDocs::with_limit(20).order_by_score()).unwrap();
            assert!(ours.len() >= theirs.len(), "{words:?}");
            for ((score, _), (expected, _)) in ours.iter().zip(&theirs) {
                assert!((score - expected).abs() < 1e-4, "{words:?}: {score} is not {expected}");
            }
            // Whatever has more than the least score is among both.
            let least = theirs.last().map_or(0.0, |(score, _)| *score + 1e-4);
            for (_, at) in theirs.iter().filter(|(score, _)| *score > least) {
                assert!(ours.iter().any(|(_, place)| *place == (at.segment_ord as usize, at.doc_id)), "{words:?}");
            }
        }
    }

    #[test]
    fn frequent_terms_are_left_out_beyond_the_budget_and_never_the_rarest() {
        let (searcher, body) = documents(300);
        let terms = ["w0", "w1", "w2", "nosuch"].map(str::to_owned);
        let kept = |most| -> Vec<u64> { telling(&searcher, body, &terms, most).unwrap().into_iter().map(|(held, _)| held).collect() };
        let all = kept(u64::MAX);
        assert!(all.len() == 3 && all.is_sorted());
        assert_eq!(kept(all[0] + all[1]), all[..2]);
        assert_eq!(kept(0), all[..RAREST]);
    }
}
