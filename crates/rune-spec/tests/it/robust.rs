//! No input makes a parser panic, and limits hold.

use std::path::Path;

use proptest::prelude::*;
use rune_spec::{
    Channels, Compose, MAX_FILE_BYTES, Runefile, Script, ToolDescriptor, Workflow, package,
};

fn parse_all(text: &str) {
    let path = Path::new("file.yaml");
    let _ = Runefile::parse(path, text).map_err(|errors| errors.to_string());
    let _ = ToolDescriptor::parse(path, text).map_err(|errors| errors.to_string());
    let _ = Workflow::parse(path, text).map_err(|errors| errors.to_string());
    let _ = Compose::parse(path, text, &|_| None).map_err(|errors| errors.to_string());
    let _ = Channels::parse(path, text).map_err(|errors| errors.to_string());
    let _ = Script::parse(path, text).map_err(|errors| errors.to_string());
}

proptest! {
    #[test]
    fn arbitrary_text_never_panics(text in "\\PC*") {
        parse_all(&text);
    }

    #[test]
    fn arbitrary_yaml_never_panics(text in "((name|version|steps|id|toolset|channels|type|\\*a|&a|<<)?[:{}\\[\\],\\-#'\"| \n\t!%@é]{1,3}){0,30}") {
        parse_all(&text);
    }

    #[test]
    fn mutated_files_never_panic(at in 0..2000_usize, byte in any::<u8>(), cut in 0..2000_usize) {
        let full = include_str!("../golden/runefile/ok/full.yaml");
        let mut bytes = full.as_bytes().to_vec();
        let length = bytes.len();
        bytes[at % length] = byte;
        bytes.truncate(length - cut % length);
        parse_all(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn arbitrary_bytes_are_no_package(bytes in proptest::collection::vec(any::<u8>(), 0..2048)) {
        let _ = package::inspect(&bytes);
    }
}

#[test]
fn refuses_deep_nesting_and_alias_bombs() {
    let deep = format!("name: {}", "[".repeat(10_000));
    assert!(Runefile::parse(Path::new("Runefile"), &deep).is_err());
    let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for level in 1..12 {
        let before = format!("*a{}, ", level - 1).repeat(10);
        bomb.push_str(&format!("a{level}: &a{level} [{before}]\n"));
    }
    assert!(
        Channels::parse(
            Path::new("channels.yaml"),
            &format!("channels:\n- x:\n   {}", bomb.replace('\n', "\n   "))
        )
        .is_err()
    );
}

#[test]
fn refuses_a_file_over_the_limit() {
    let text = format!(
        "name: a\ndescription: {}\n",
        "x".repeat(usize::try_from(MAX_FILE_BYTES).unwrap())
    );
    let errors = Runefile::parse(Path::new("Runefile"), &text).unwrap_err();
    assert!(errors.to_string().contains("larger than"), "{errors}");
}

#[test]
fn errors_carry_their_place_as_data() {
    let errors =
        Runefile::parse(Path::new("a/Runefile"), "name: hello\nverison: 0.1.0\n").unwrap_err();
    let error = errors.iter().next().unwrap();
    assert_eq!(
        (error.path(), error.line(), error.column()),
        (Path::new("a/Runefile"), Some(2), Some(1))
    );
    assert_eq!(error.message(), "unknown key `verison`");
    assert_eq!(error.help(), Some("did you mean `version`?"));
    assert_eq!(error.snippet(), Some("verison: 0.1.0"));
}

#[test]
fn errors_do_not_carry_terminal_escapes() {
    let errors = Runefile::parse(
        Path::new("Runefile"),
        "name: \"a\\e[31m\"\nversion: \"\u{7f}\"\ninstructions: x\ndefault_model: m\n",
    )
    .unwrap_err();
    assert!(!errors.to_string().contains('\u{1b}'));
}

#[test]
fn stays_quick_on_large_hostile_files() {
    let head = "name: a\nversion: 0.1.0\ninstructions: x\ndefault_model: m\n";
    let tools = format!("{head}toolset: [{}]\n", "a, ".repeat(40_000));
    let errors = Runefile::parse(Path::new("Runefile"), &tools).unwrap_err();
    assert!(
        errors.to_string().contains("more than 1000 entries"),
        "{errors}"
    );
    let networks = format!("{head}networks: [{}]\n", "A, ".repeat(40_000));
    assert_eq!(
        Runefile::parse(Path::new("Runefile"), &networks)
            .unwrap_err()
            .len(),
        100
    );
    let key = format!("{head}{}: 1\n", "k".repeat(1000));
    assert!(Runefile::parse(Path::new("Runefile"), &key).is_err());
}
