//! Experts are data: a domain of causes and a way to ask. They are chosen by what is abnormal.

use std::sync::LazyLock;

use serde::{Deserialize, Serialize};

use galen_knowledge::catalog::Catalog;
use galen_tools::detect::Abnormal;

const FILES: &[&str] = &[
    include_str!("../experts/queries.toml"),
    include_str!("../experts/writes.toml"),
    include_str!("../experts/locks.toml"),
    include_str!("../experts/storage.toml"),
    include_str!("../experts/host.toml"),
];

/// At least this many experts look at every incident.
const QUORUM: usize = 3;

/// An agent with a domain and a prompt of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expert {
    /// Id, such as `lock_expert`.
    pub id: String,
    /// Title for people.
    pub title: String,
    /// Domains of the catalog whose causes it owns.
    pub domains: Vec<String>,
    /// System prompt.
    pub prompt: String,
}

impl Expert {
    /// All shipped experts, in a fixed order.
    pub fn all() -> Vec<Self> {
        static ALL: LazyLock<Vec<Expert>> = LazyLock::new(|| FILES.iter().filter_map(|text| toml::from_str(text).ok()).collect());
        ALL.clone()
    }

    /// True when the expert owns causes of this domain.
    pub fn owns(&self, domain: &str) -> bool {
        self.domains.iter().any(|d| d == domain)
    }
}

/// An expert and why it was chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invited {
    /// Who.
    pub expert: Expert,
    /// Why, in one line.
    pub because: String,
}

/// Splits the experts into those invited at once and those on call, by how many abnormal signals belong to their
/// cluster of the cause graph.
pub fn choose(abnormal: &[Abnormal], catalog: &Catalog) -> (Vec<Invited>, Vec<Invited>) {
    let mut ranked: Vec<(usize, Invited)> = Expert::all()
        .into_iter()
        .map(|expert| {
            let own: Vec<_> = catalog.clusters().iter().filter(|(domain, _)| expert.owns(domain)).map(|(_, signals)| signals).collect();
            let known = |signal: &str| own.iter().any(|signals| signals.contains(signal));
            let concerns = |a: &&Abnormal| known(&a.signal) || (a.signal.contains('{') && known(bare(&a.signal)));
            let hits: Vec<&str> = abnormal.iter().filter(concerns).map(|a| a.signal.as_str()).collect();
            let because = match hits.len() {
                0 => "invited to complete the panel".to_owned(),
                n => format!("{n} abnormal signals of its domain, {} first", hits[0]),
            };
            (hits.len(), Invited { expert, because })
        })
        .collect();
    ranked.sort_by_key(|entry| std::cmp::Reverse(entry.0));
    let invited = ranked.iter().filter(|(hits, _)| *hits > 0).count().max(QUORUM).min(ranked.len());
    let on_call = ranked.split_off(invited);
    let strip = |list: Vec<(usize, Invited)>| list.into_iter().map(|(_, invited)| invited).collect();
    (strip(ranked), strip(on_call))
}

/// A signal's name without its labels.
fn bare(signal: &str) -> &str {
    signal.split('{').next().unwrap_or(signal)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::rising;

    #[test]
    fn every_domain_of_the_catalog_has_an_expert() {
        let experts = Expert::all();
        assert_eq!(experts.len(), FILES.len());
        for cause in Catalog::builtin().unwrap().iter() {
            assert!(experts.iter().any(|e| e.owns(&cause.domain)), "nobody owns {} of {}", cause.domain, cause.id);
        }
    }

    #[test]
    fn lock_trouble_invites_the_lock_expert_and_a_quorum() {
        let catalog = Catalog::builtin().unwrap();
        let abnormal = [rising("deadlocks_per_s")];
        let (invited, on_call) = choose(&abnormal, &catalog);
        assert_eq!(invited[0].expert.id, "lock_expert");
        assert_eq!(invited.len(), QUORUM);
        assert_eq!(invited.len() + on_call.len(), FILES.len());
    }
}
