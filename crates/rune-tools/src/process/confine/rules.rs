//! Landlock: files, TCP and signals by rules of the kernel.

use std::path::Path;

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, NetPort, PathBeneath,
    PathFd, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError, Scope,
};

use super::super::launcher::{Confinement, Network};
use super::{DEVICES, ETC, SYSTEM, Stage, missing, tree};

/// What every kernel with Landlock knows; without it there is no confinement.
const NEEDED: ABI = ABI::V1;
/// What is used where the kernel knows it.
const WANTED: ABI = ABI::V6;

/// Restricts this process and whatever it starts.
pub(super) fn restrict(confinement: &Confinement, stage: &Stage) -> Result<(), String> {
    let rules = rules(confinement, stage)?;
    apply(confinement, stage, &rules).map_err(|error| missing("Landlock", error))
}

struct Rule {
    file: PathFd,
    access: BitFlags<AccessFs>,
}

fn rules(confinement: &Confinement, stage: &Stage) -> Result<Vec<Rule>, String> {
    let read = AccessFs::from_read(WANTED);
    let write = AccessFs::from_all(WANTED);
    let mut rules = Vec::new();
    let mut add = |path: &Path, access| {
        let file = PathFd::new(path).map_err(|error| error.to_string())?;
        let access = if path.is_dir() {
            access
        } else {
            access & AccessFs::from_file(WANTED)
        };
        rules.push(Rule { file, access });
        Ok::<_, String>(())
    };
    if confinement.parts.namespaces {
        // Nothing else is there.
        add("/".as_ref(), read)?;
        add("/dev/shm".as_ref(), write)?;
    } else {
        let known = SYSTEM.iter().chain(ETC).chain(&["/proc"]);
        for path in known.filter(|path| Path::new(path).exists()) {
            add(path.as_ref(), read)?;
        }
        if let Some(package) = &confinement.package {
            add(package, read)?;
        }
        keeps_apart(confinement)?;
    }
    for path in DEVICES {
        add(path.as_ref(), write)?;
    }
    add(&stage.tmp, write)?;
    for grant in &confinement.paths {
        add(&grant.path, if grant.write { write } else { read })?;
    }
    Ok(rules)
}

/// Rules only add. Without namespaces, what lies in a granted directory is granted.
fn keeps_apart(confinement: &Confinement) -> Result<(), String> {
    let hidden = tree::real_paths(&confinement.hidden);
    let package = tree::real_paths(confinement.package.as_slice());
    for grant in &confinement.paths {
        let real = tree::real_path(&tree::open_grant(grant)?)?;
        if real != grant.path && grant.inside.is_some() {
            let path = grant.path.display();
            return Err(format!("`{path}` is behind a symbolic link"));
        }
        let mut kept = hidden.iter().chain(package.iter().filter(|_| grant.write));
        if let Some(kept) = kept.find(|kept| kept.starts_with(&real)) {
            let (grant, kept) = (grant.path.display(), kept.display());
            return Err(format!(
                "`{grant}` is granted and `{kept}`, which is in it, cannot be kept apart without namespaces"
            ));
        }
    }
    Ok(())
}

fn apply(confinement: &Confinement, stage: &Stage, rules: &[Rule]) -> Result<(), RulesetError> {
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(NEEDED))?
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(WANTED))?
        .scope(Scope::AbstractUnixSocket | Scope::Signal)?;
    if confinement.network != Network::Open {
        // Without a network of its own, this is what keeps a process from others.
        let filters = confinement.network == Network::Filtered;
        let level = if filters && !confinement.parts.namespaces {
            CompatLevel::HardRequirement
        } else {
            CompatLevel::BestEffort
        };
        ruleset = ruleset
            .set_compatibility(level)
            .handle_access(AccessNet::BindTcp | AccessNet::ConnectTcp)?;
    }
    let mut created = ruleset.create()?.set_compatibility(CompatLevel::BestEffort);
    for rule in rules {
        created = created.add_rule(PathBeneath::new(&rule.file, rule.access))?;
    }
    if let Some(port) = stage.port {
        created = created.add_rule(NetPort::new(port, AccessNet::ConnectTcp))?;
    }
    created.restrict_self()?;
    Ok(())
}
