//! Order of things that depend on each other.

/// Topological waves over `dependencies[i]` = what `i` waits for, each wave in index order.
///
/// # Errors
/// The members of one cycle, in order.
pub(crate) fn waves(dependencies: &[Vec<usize>]) -> Result<Vec<Vec<usize>>, Vec<usize>> {
    let mut waves: Vec<Vec<usize>> = Vec::new();
    let mut done = vec![false; dependencies.len()];
    while done.iter().any(|done| !done) {
        let wave: Vec<usize> = (0..dependencies.len())
            .filter(|&node| !done[node] && dependencies[node].iter().all(|&before| done[before]))
            .collect();
        if wave.is_empty() {
            return Err(cycle(dependencies, &done));
        }
        for &node in &wave {
            done[node] = true;
        }
        waves.push(wave);
    }
    Ok(waves)
}

/// Every node left waits for another one left, so following them ends in a cycle.
fn cycle(dependencies: &[Vec<usize>], done: &[bool]) -> Vec<usize> {
    let mut path: Vec<usize> = Vec::new();
    let mut next = done.iter().position(|done| !done);
    while let Some(node) = next {
        if let Some(start) = path.iter().position(|&seen| seen == node) {
            path.drain(..start);
            break;
        }
        path.push(node);
        next = dependencies[node]
            .iter()
            .copied()
            .find(|&before| !done[before]);
    }
    path
}

/// Whether `from` waits for `to`, directly or through others.
pub(crate) fn waits_for(dependencies: &[Vec<usize>], from: usize, to: usize) -> bool {
    let mut seen = vec![false; dependencies.len()];
    let mut open = vec![from];
    while let Some(node) = open.pop() {
        for &before in &dependencies[node] {
            if before == to {
                return true;
            }
            if !std::mem::replace(&mut seen[before], true) {
                open.push(before);
            }
        }
    }
    false
}
