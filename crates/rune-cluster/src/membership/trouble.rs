//! Why nothing is decided, in words that say what to do.

use rune_raft::{About, NodeId};

use super::{Answers, list};

/// Why no majority of these voters answers one that leads it, as a node sees it that has asked them.
pub(super) fn no_quorum(voters: &[NodeId], answers: &Answers) -> String {
    let about = |id: &NodeId| answers.get(id)?.as_ref().ok();
    let answer = |id: &&NodeId| about(id).is_some_and(|about| about.failure.is_none());
    let silent: Vec<NodeId> = voters.iter().filter(|id| !answer(id)).copied().collect();
    let Some(first) = silent.first() else {
        return "no node leads at present, although all voters answer: one is being elected, or they do not reach each other"
            .to_owned();
    };
    let answering = voters.len() - silent.len();
    if answering <= voters.len() / 2 {
        return format!(
            "no majority: {answering} of {} voters answer; start {}{}",
            voters.len(),
            nodes(&silent),
            why(*first, answers),
        );
    }
    let abouts = answers.values().filter_map(|answer| answer.as_ref().ok());
    let newest = abouts.max_by_key(|about: &&About| about.term);
    match newest.and_then(|about| about.leader) {
        Some(leader) if silent.contains(&leader) => format!(
            "node {leader} leads, as the others say, and does not answer this node{}; look at the network between the two",
            why(leader, answers),
        ),
        _ => format!(
            "no node leads at present, although {answering} of {} voters answer: one is being elected, or they do not \
             reach each other; {} not answer this node{}",
            voters.len(),
            match silent.len() {
                1 => format!("{} does", nodes(&silent)),
                _ => format!("{} do", nodes(&silent)),
            },
            why(*first, answers),
        ),
    }
}

fn nodes(ids: &[NodeId]) -> String {
    match ids {
        [one] => format!("node {one}"),
        ids => format!("nodes {}", list(ids)),
    }
}

/// What is known of a node that does not answer, in brackets.
fn why(id: NodeId, answers: &Answers) -> String {
    let why = answers.get(&id).and_then(|answer| match answer {
        Ok(about) => about.failure.clone(),
        Err(error) => Some(error.to_string()),
    });
    why.map(|why| format!(" ({why})")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use rune_raft::CallError;

    use super::*;

    fn about(term: u64, leader: Option<NodeId>) -> About {
        About {
            rune: String::new(),
            commands: 1,
            is_new: false,
            knows_asker: true,
            term,
            leader,
            last: None,
            applied: None,
            snapshot: None,
            purged: None,
            disk_full: false,
            failure: None,
            progress: BTreeMap::new(),
        }
    }

    fn said(answers: [Option<About>; 3]) -> String {
        let gone = || CallError::Unreachable("no way".to_owned());
        let answers = (1..).zip(answers);
        let answers = answers.map(|(id, about)| (id, about.ok_or_else(gone)));
        no_quorum(&[1, 2, 3], &answers.collect())
    }

    #[test]
    fn whom_to_start_is_said_where_most_are_silent() {
        let said = said([Some(about(4, Some(2))), None, None]);
        assert_eq!(
            said,
            "no majority: 1 of 3 voters answer; start nodes 2, 3 (unreachable: no way)"
        );
    }

    #[test]
    fn a_leader_that_only_others_reach_is_named() {
        let said = said([Some(about(4, Some(2))), None, Some(about(5, Some(2)))]);
        assert_eq!(
            said,
            "node 2 leads, as the others say, and does not answer this node (unreachable: no way); look at the network \
             between the two"
        );
    }

    #[test]
    fn an_election_is_one_whoever_is_silent() {
        let all = said([1, 2, 3].map(|_| Some(about(4, None))));
        assert!(all.contains("all voters answer"), "{all}");
        let most = said([Some(about(4, None)), None, Some(about(4, None))]);
        assert!(most.contains("although 2 of 3 voters answer"), "{most}");
        assert!(
            most.contains("node 2 does not answer this node (unreachable: no way)"),
            "{most}"
        );
    }
}
