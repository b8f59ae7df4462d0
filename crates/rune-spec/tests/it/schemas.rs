//! The exported JSON Schemas agree with the parsers.

use std::fs;
use std::path::Path;

use rune_spec::{SchemaKind, schema};
use serde_json::Value;

#[test]
fn accept_every_valid_example() {
    for kind in SchemaKind::ALL {
        let validator = jsonschema::validator_for(&schema(kind)).unwrap();
        let dir = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/golden")
            .join(kind.as_str())
            .join("ok");
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|kind| kind == "yaml") {
                let value: Value =
                    serde_saphyr::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
                if let Err(error) = validator.validate(&value) {
                    panic!("{}: {error} at {}", path.display(), error.instance_path());
                }
            }
        }
    }
}

#[test]
fn refuse_unknown_keys_and_say_the_defaults() {
    let runefile = schema(SchemaKind::Runefile);
    assert_eq!(runefile["additionalProperties"], false);
    assert_eq!(runefile["properties"]["max_steps"]["default"], 20);
    assert_eq!(runefile["properties"]["networks"]["default"][0], "bridge");
    let required: Vec<&str> = runefile["required"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(Value::as_str)
        .collect();
    assert_eq!(required, ["name", "version", "default_model"]);
}

#[test]
fn are_named_as_on_the_command_line() {
    assert_eq!("tool".parse::<SchemaKind>().unwrap(), SchemaKind::Tool);
    assert_eq!(
        "runfile".parse::<SchemaKind>().unwrap_err().help(),
        Some("did you mean `runefile`?")
    );
}
