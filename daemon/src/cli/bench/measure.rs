//! From a finished report to the line of a run: what was named, what it rests on, what it cost.

use jiff::Timestamp;

use galen_agents::evaluation::record::{Answer, CaseLine, Cited, Named};
use galen_agents::evaluation::{faithfulness, remedy};
use galen_agents::report::{Report, RootCause};
use galen_knowledge::chunk::KnowledgeChunk;
use galen_tools::model::Window;

/// What a report says of a case. The caller adds which case it was.
pub fn case_line(report: &Report, answer: Answer, chunks: &[KnowledgeChunk]) -> CaseLine {
    let named = |cause: &RootCause| Named {
        cause: cause.cause.clone(),
        probability: cause.probability,
        culprits: cause.culprits.clone(),
        remedies: remedy::check(&cause.remedies, &cause.culprits, &answer.culprits),
    };
    CaseLine {
        status: report.status,
        named: report.root_causes.iter().map(named).collect(),
        window: window(report),
        grounding: faithfulness::check(report),
        knowledge: cited(report, &answer, chunks),
        bill: report.bill,
        model_note: report.model_note.clone(),
        answer,
        ..CaseLine::default()
    }
}

fn window(report: &Report) -> Option<Window> {
    let at = |text: &str| text.parse::<Timestamp>().ok().map(Timestamp::as_millisecond);
    Some(Window { start: at(&report.window.start)?, end: at(&report.window.end)? })
}

fn cited(report: &Report, answer: &Answer, chunks: &[KnowledgeChunk]) -> Cited {
    let right = |chunk: &KnowledgeChunk| chunk.causes.iter().any(|c| answer.causes.contains(c));
    let about = |title: &str| chunks.iter().find(|chunk| chunk.title == title).is_some_and(right);
    Cited {
        chunks: report.knowledge.len() as u32,
        right: report.knowledge.iter().filter(|k| about(&k.title)).count() as u32,
        library: chunks.len() as u32,
        library_right: chunks.iter().filter(|c| right(c)).count() as u32,
    }
}
