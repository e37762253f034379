//! What tantivy keeps of a chunk: terms of its words and its names, its id and the number of its row; no text.

use std::collections::HashMap;

use tantivy::TantivyDocument;
use tantivy::schema::{FAST, Field, IndexRecordOption, Schema, TextFieldIndexing, TextOptions};
use tantivy::tokenizer::{PreTokenizedString, Token as TantivyToken};

use super::analysis;
use super::query::Query;
use crate::catalog::Catalog;
use crate::chunk::KnowledgeChunk;

/// How often a title counts against the text below it.
const TITLE: usize = 2;

#[derive(Debug, Clone, Copy)]
pub struct Fields {
    pub id: Field,
    pub number: Field,
    pub body: Field,
    pub names: Field,
}

/// The fields of the index.
pub fn schema() -> (Schema, Fields) {
    let mut builder = Schema::builder();
    let counted = TextFieldIndexing::default().set_tokenizer("raw").set_index_option(IndexRecordOption::WithFreqs);
    let exact = TextFieldIndexing::default().set_tokenizer("raw").set_index_option(IndexRecordOption::Basic).set_fieldnorms(false);
    let fields = Fields {
        id: builder.add_text_field("id", TextOptions::default().set_indexing_options(exact)),
        number: builder.add_u64_field("number", FAST),
        body: builder.add_text_field("body", TextOptions::default().set_indexing_options(counted.clone())),
        names: builder.add_text_field("names", TextOptions::default().set_indexing_options(counted)),
    };
    (builder.build(), fields)
}

/// Signals that move with each cause.
pub type Symptoms = HashMap<String, Vec<String>>;

/// The symptoms of a catalog's causes.
pub fn symptoms(catalog: &Catalog) -> Symptoms {
    let names = |cause: &crate::cause::Cause| cause.symptom.iter().map(|s| s.signal.clone()).collect();
    catalog.iter().map(|cause| (cause.id.clone(), names(cause))).collect()
}

/// What a chunk's embedding is made of.
pub fn meaning_of(chunk: &KnowledgeChunk) -> String {
    format!("{}. {}", chunk.source.section.join(". "), chunk.content)
}

/// The document of a chunk.
pub fn document(fields: Fields, chunk: &KnowledgeChunk, number: u64, symptoms: &Symptoms) -> TantivyDocument {
    let title = if chunk.source.section.is_empty() { chunk.title.clone() } else { chunk.source.section.join(" ") };
    let mut body: Vec<String> = Vec::new();
    for _ in 0..TITLE {
        body.extend(analysis::tokens(&title).into_iter().map(|t| t.term));
    }
    body.extend(analysis::tokens(&chunk.content).into_iter().map(|t| t.term));
    // The names of a chunk: those of its title count thrice, its causes and the signals that move with them once.
    let mut names = Query::default();
    for cause in &chunk.causes {
        names.add_name(cause);
        symptoms.get(cause).into_iter().flatten().for_each(|signal| names.add_name(signal));
    }
    chunk.signals.iter().for_each(|signal| names.add_name(signal));
    let mut exact = names.names().to_vec();
    for _ in 0..3 {
        exact.extend(analysis::names(&title));
    }
    exact.extend(analysis::names(&chunk.content));
    let mut document = TantivyDocument::default();
    document.add_text(fields.id, &chunk.id);
    document.add_u64(fields.number, number);
    document.add_pre_tokenized_text(fields.body, terms_of(body));
    document.add_pre_tokenized_text(fields.names, terms_of(exact));
    document
}

fn terms_of(terms: Vec<String>) -> PreTokenizedString {
    let token = |(position, text): (usize, String)| TantivyToken { position, text, ..TantivyToken::default() };
    PreTokenizedString { text: String::new(), tokens: terms.into_iter().enumerate().map(token).collect() }
}
