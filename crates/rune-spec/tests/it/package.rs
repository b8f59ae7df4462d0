//! Loading, packing, unpacking, scaffolding.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use proptest::prelude::*;
use rune_spec::{AgentPackage, PackageError, TEMPLATES, ToolRef, builtin_names, package, scaffold};
use tempfile::TempDir;

const RUNEFILE: &str = "name: a\nversion: 0.1.0\ninstructions: hi\ndefault_model: m\n";

fn agent(files: &[(&str, &str)]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, content) in files {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    dir
}

fn load_error(files: &[(&str, &str)]) -> String {
    AgentPackage::load(agent(files).path())
        .unwrap_err()
        .to_string()
}

#[test]
fn every_template_loads() {
    for template in TEMPLATES {
        let dir = tempfile::tempdir().unwrap();
        let dest = dir.path().join("new");
        scaffold(&"my-agent".parse().unwrap(), template.name, &dest).unwrap();
        let package = AgentPackage::load(&dest)
            .unwrap_or_else(|errors| panic!("{}: {errors}", template.name));
        assert_eq!(package.runefile.name.as_str(), "my-agent");
        assert!(
            scaffold(&"my-agent".parse().unwrap(), template.name, &dest).is_err(),
            "must not write over files"
        );
    }
}

#[test]
fn injects_builtin_descriptors() {
    let toolset: Vec<String> = builtin_names().map(|name| format!("rune@{name}")).collect();
    let runefile = format!(
        "{RUNEFILE}toolset: [{}, gh/*, gh/issue]\n",
        toolset.join(", ")
    );
    let package = AgentPackage::load(agent(&[("Runefile", &runefile)]).path()).unwrap();
    assert_eq!(package.tools.len(), builtin_names().count());
    assert_eq!(
        package.tool("rune__file-read").unwrap().reference,
        ToolRef::Builtin("file-read".to_owned())
    );
    assert_eq!(package.mcp_tools.len(), 2);
}

#[test]
fn loads_what_the_files_lead_to() {
    let dir = agent(&[
        (
            "Runefile",
            "name: a\nversion: 0.1.0\ninstructions_file: prompt.md\ndefault_model: m\ntoolset: [t]\n",
        ),
        ("prompt.md", "Be kind."),
        (
            "tools/t.yaml",
            "name: t\nmodule: tools/t.sh\ninput_schema_ref: tools/in.json\n",
        ),
        ("tools/t.sh", "cat"),
        (
            "tools/in.json",
            r#"{"properties": {"x": {"type": "string"}}, "required": ["x"]}"#,
        ),
        ("policy.cedar", "permit(principal, action, resource);"),
        ("evals/a/one.yaml", ""),
    ]);
    let package = AgentPackage::load(dir.path()).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(package.instructions, "Be kind.");
    let tool = &package.tools[0].descriptor;
    assert_eq!(tool.input_schema["type"], "object");
    assert_eq!(tool.policy_argument(&serde_json::json!({ "x": "y" })), "y");
    assert!(package.policy.is_some());
    assert_eq!(package.evals, [Path::new("evals/a/one.yaml")]);
}

#[test]
fn points_at_an_unknown_tool() {
    let runefile = format!("{RUNEFILE}toolset:\n  - word-cuont\n");
    let error = load_error(&[
        ("Runefile", &runefile),
        ("tools/w.yaml", "name: word-count\nmodule: tools/w.sh\n"),
        ("tools/w.sh", ""),
    ]);
    assert!(error.contains("Runefile:6:5"), "{error}");
    assert!(error.contains("did you mean `word-count`?"), "{error}");
    let runefile = format!("{RUNEFILE}toolset: [file-read]\n");
    assert!(
        load_error(&[("Runefile", &runefile)])
            .contains("did you mean the built-in tool `rune@file-read`?")
    );
}

#[test]
fn reports_errors_of_several_files_together() {
    let error = load_error(&[
        (
            "Runefile",
            "name: A\nversion: x\ninstructions: hi\ndefault_model: m\n",
        ),
        ("tools/t.yaml", "name: t\nmodule: nowhere.sh\n"),
        ("workflow.yaml", "name: w\nversion: 1.0.0\nsteps: []\n"),
    ]);
    for part in [
        "Runefile:1:7",
        "Runefile:2:10",
        "t.yaml:2:9",
        "workflow.yaml:3:",
    ] {
        assert!(error.contains(part), "{part} in {error}");
    }
}

#[test]
fn refuses_modules_outside_the_package() {
    let tool = |module: &str| format!("name: t\nmodule: {module}\n");
    for module in ["../x.sh", "/bin/sh", "target/x.sh"] {
        let error = load_error(&[
            ("Runefile", RUNEFILE),
            ("tools/t.yaml", &tool(module)),
            ("target/x.sh", ""),
        ]);
        assert!(error.contains("t.yaml:2:9"), "{error}");
    }
}

#[test]
fn missing_runefile_names_the_command_that_helps() {
    assert!(load_error(&[("x", "")]).contains("rune init"));
}

#[cfg(unix)]
#[test]
fn links_do_not_leave_the_package() {
    use std::os::unix::fs::symlink;

    let dir = agent(&[("Runefile", RUNEFILE), ("real.txt", "x")]);
    symlink("real.txt", dir.path().join("inside.txt")).unwrap();
    assert_eq!(package::pack(dir.path()).unwrap().files.len(), 3);
    symlink("/etc/hosts", dir.path().join("outside.txt")).unwrap();
    assert!(matches!(
        package::pack(dir.path()),
        Err(PackageError::Link { .. })
    ));
    fs::create_dir(dir.path().join("tools")).unwrap();
    symlink("/etc/hosts", dir.path().join("tools/t.sh")).unwrap();
    fs::write(
        dir.path().join("tools/t.yaml"),
        "name: t\nmodule: tools/t.sh\n",
    )
    .unwrap();
    let error = AgentPackage::load(dir.path()).unwrap_err().to_string();
    assert!(
        error.contains("leads out of the agent directory"),
        "{error}"
    );
}

#[test]
fn leaves_out_what_is_not_part_of_the_agent() {
    let dir = agent(&[
        ("Runefile", RUNEFILE),
        (".env", "SECRET=1"),
        (".env.local", ""),
        (".git/config", ""),
        ("node_modules/x/y.js", ""),
        ("tools/__pycache__/x.pyc", ""),
        ("target/debug/x", ""),
    ]);
    let names: Vec<String> = package::pack(dir.path())
        .unwrap()
        .files
        .into_iter()
        .map(|file| file.path)
        .collect();
    assert_eq!(names, ["Runefile"]);
}

#[test]
fn same_content_packs_to_the_same_bytes() {
    let files = [("Runefile", RUNEFILE), ("b/c.txt", "1"), ("a.txt", "2")];
    let mut turned = files;
    turned.reverse();
    let (one, two) = (
        package::pack(agent(&files).path()).unwrap(),
        package::pack(agent(&turned).path()).unwrap(),
    );
    assert_eq!(one, two);
    assert_eq!(one.digest, package::digest(&two.bytes));
    assert!(one.digest.starts_with("sha256:") && one.digest.len() == 71);
}

fn archive(entries: &[(&str, tar::EntryType)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, kind) in entries {
        let mut header = tar::Header::new_gnu();
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(*kind);
        header.set_size(0);
        header.set_mode(0o644);
        header.set_cksum();
        builder.append(&header, std::io::empty()).unwrap();
    }
    builder.into_inner().unwrap()
}

#[test]
fn unpack_refuses_hostile_archives_and_writes_nothing() {
    use tar::EntryType::{Directory, Fifo, Link, Regular, Symlink};

    let hostile: [&[(&str, tar::EntryType)]; 8] = [
        &[("ok", Regular), ("../evil", Regular)],
        &[("ok", Regular), ("/evil", Regular)],
        &[("ok", Regular), ("a/../../evil", Regular)],
        &[("ok", Regular), ("link", Symlink)],
        &[("ok", Regular), ("link", Link)],
        &[("ok", Regular), ("pipe", Fifo)],
        &[("ok", Regular), ("ok", Regular)],
        &[("ok", Regular), ("ok/below", Regular)],
    ];
    for entries in hostile {
        let dir = tempfile::tempdir().unwrap();
        let dest = dir.path().join("dest");
        assert!(
            package::unpack(&archive(entries), &dest).is_err(),
            "{entries:?}"
        );
        assert!(!dest.exists(), "{entries:?}");
    }
    let dir = tempfile::tempdir().unwrap();
    package::unpack(&archive(&[("d/", Directory), ("d/x", Regular)]), dir.path()).unwrap();
    assert!(dir.path().join("d/x").is_file());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn what_is_packed_comes_back(
        files in proptest::collection::btree_map("[a-z]{1,8}(/[a-z ]{1,120}[a-z]){0,2}\\.txt", "\\PC{0,200}", 0..8),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let mut all: BTreeMap<String, String> = files.into_iter().collect();
        all.insert("Runefile".to_owned(), RUNEFILE.to_owned());
        for (name, content) in &all {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        let packed = package::pack(dir.path()).unwrap();
        let dest = tempfile::tempdir().unwrap();
        let entries = package::unpack(&packed.bytes, dest.path()).unwrap();
        prop_assert_eq!(&entries, &packed.files);
        let back: BTreeMap<String, String> = entries
            .iter()
            .map(|entry| (entry.path.clone(), fs::read_to_string(dest.path().join(&entry.path)).unwrap()))
            .collect();
        prop_assert_eq!(back, all);
        prop_assert_eq!(package::pack(dest.path()).unwrap().digest, packed.digest);
    }
}

const POLICY_AGENT: &str = "name: a\nversion: 0.1.0\ninstructions: x\ndefault_model: m\n\
    toolset: [rune@shell-exec, rune@file-write, rune@file-read, mine]\npolicy:\n";
const MINE: &str = "name: mine\nmodule: m.sh\ninput_schema: {properties: {count: {type: integer}, \
    title: {type: string}}, required: [count, title]}\n";

fn policy_error(rules: &str) -> String {
    load_error(&[
        ("Runefile", &format!("{POLICY_AGENT}{rules}")),
        ("tools/mine.yaml", MINE),
        ("tools/m.sh", ""),
        ("m.sh", ""),
    ])
}

#[test]
fn points_at_a_rule_about_an_argument_that_no_tool_has() {
    let error = policy_error("  deny: ['rune@file-*(pth=/etc/*)']\n");
    assert!(
        error.contains("the rule names the argument `pth`"),
        "{error}"
    );
    assert!(error.contains("Runefile:7:10"), "{error}");
    assert!(error.contains("did you mean `path`?"), "{error}");
    let error = policy_error("  deny: ['rune@memory-*']\n");
    assert!(error.contains("which is not in the toolset"), "{error}");
}

#[test]
fn rules_know_their_line_and_the_primary_argument_is_the_first_required_text() {
    let dir = agent(&[
        (
            "Runefile",
            &format!(
                "{POLICY_AGENT}  ask: [mine]\n  deny:\n    - mine(x)\n    - rune@file-*(path=/etc/*)\n"
            ),
        ),
        ("tools/mine.yaml", MINE),
        ("m.sh", ""),
    ]);
    let package = AgentPackage::load(dir.path()).unwrap();
    let policy = &package.runefile.policy;
    let lines: Vec<_> = policy.ask.iter().chain(&policy.deny).collect();
    let lines: Vec<_> = lines.iter().map(|rule| rule.line()).collect();
    assert_eq!(lines, [Some(7), Some(9), Some(10)]);
    let mine = package
        .tools
        .iter()
        .find(|tool| tool.visible_name == "mine");
    let mine = &mine.unwrap().descriptor;
    assert_eq!(mine.primary_argument.as_deref(), Some("title"));
    let input = serde_json::json!({"count": 3, "title": "t"});
    assert_eq!(mine.policy_argument(&input), "t");
    assert_eq!(mine.argument_text(&input, "count").as_deref(), Some("3"));
}
