//! Landlock: files, TCP and signals by rules of the kernel.

use std::os::fd::OwnedFd;
use std::path::Path;

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, NetPort, PathBeneath,
    Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError, Scope,
};

use super::super::launcher::{Confinement, Network};
use super::super::reach::PathGrant;
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
    file: OwnedFd,
    access: BitFlags<AccessFs>,
}

impl Rule {
    /// Of a directory all of this access, of a file what files have.
    fn new(file: OwnedFd, access: BitFlags<AccessFs>) -> Result<Self, String> {
        let access = if tree::is_dir(&file).map_err(|error| error.to_string())? {
            access
        } else {
            access & AccessFs::from_file(WANTED)
        };
        Ok(Self { file, access })
    }
}

fn rules(confinement: &Confinement, stage: &Stage) -> Result<Vec<Rule>, String> {
    let read = AccessFs::from_read(WANTED);
    let write = AccessFs::from_all(WANTED);
    let mut rules = Vec::new();
    let mut add = |path: &Path, access| {
        rules.push(Rule::new(tree::open(path)?, access)?);
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
    }
    for path in DEVICES {
        add(path.as_ref(), write)?;
    }
    add(&stage.tmp, write)?;
    for grant in &confinement.paths {
        let file = if confinement.parts.namespaces {
            // It stands in the tree.
            tree::open(&grant.path)?
        } else {
            kept_apart(confinement, grant)?
        };
        rules.push(Rule::new(file, if grant.write { write } else { read })?);
    }
    Ok(rules)
}

/// Opens a grant. Rules only add: without namespaces, what lies in a granted directory is granted. What is looked at here is
/// what the rule is about, whatever has its name then.
fn kept_apart(confinement: &Confinement, grant: &PathGrant) -> Result<OwnedFd, String> {
    let hidden = tree::real_paths(&confinement.hidden);
    let package = tree::real_paths(confinement.package.as_slice());
    let file = tree::open_grant(grant)?;
    let real = tree::real_path(&file)?;
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
    Ok(file)
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
