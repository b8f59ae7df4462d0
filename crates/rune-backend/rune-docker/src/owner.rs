//! Who a container belongs to: the data directory, and the process that started it.

use std::path::Path;

use sha2::{Digest, Sha256};

/// Label: which data directory of which machine.
pub(crate) const DAEMON: &str = "rune.daemon";
/// Label: the process that started the container.
pub(crate) const PROCESS: &str = "rune.process";

/// Names a data directory of this machine.
pub(crate) fn daemon_id(data_dir: &Path) -> String {
    let path = data_dir
        .canonicalize()
        .unwrap_or_else(|_| data_dir.to_owned());
    // Two machines may use one engine.
    let machine = std::fs::read("/etc/machine-id").unwrap_or_default();
    let mut digest = Sha256::new();
    digest.update(path.as_os_str().as_encoded_bytes());
    digest.update([0]);
    digest.update(machine);
    let bytes = digest.finalize();
    bytes[..12]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// This process, so that another one with its number is not taken for it.
pub(crate) fn this_process() -> String {
    let pid = std::process::id();
    format!("{pid}:{}", started(pid).unwrap_or_default())
}

/// Whether the process of a label is still there.
pub(crate) fn is_alive(label: &str) -> bool {
    let Some((pid, start)) = label.split_once(':') else {
        return false;
    };
    let pid = pid.parse().ok();
    pid.and_then(started).is_some_and(|found| found == start)
}

/// When a process started, in ticks since the start of the machine.
fn started(pid: u32) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // What is before the parenthesis may hold anything.
    let (_, rest) = stat.rsplit_once(") ")?;
    rest.split(' ').nth(19).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_a_process_from_another_with_its_number() {
        let own = this_process();
        assert!(is_alive(&own), "{own}");
        assert!(!is_alive(&format!("{}:1", std::process::id())));
        assert!(!is_alive("nonsense"));
    }

    #[test]
    fn a_directory_has_one_name() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("link");
        let data = dir.path().join("data");
        std::fs::create_dir(&data).unwrap();
        std::os::unix::fs::symlink(&data, &link).unwrap();
        assert_eq!(daemon_id(&data), daemon_id(&link));
        assert_ne!(daemon_id(&data), daemon_id(dir.path()));
    }
}
