//! Artefacts and layouts without a registry.

use std::fs;
use std::path::Path;
use std::process::Command;

use bytes::Bytes;
use proptest::prelude::*;
use rune_oci::{Artifact, Layout, OciError, Refusal, Signatures, SigningKey};
use serde_json::{Value, json};

use crate::{agent, build, signed, write};

/// The digest of the agent's artefact. A change of it is a change of the format.
const DIGEST: &str = "sha256:099208ce15f1c5ebc554509161bcc921a2218287e6153504a6454176c8bc1b76";

#[test]
fn the_same_directory_gives_the_same_artefact_everywhere() {
    let one = agent();
    let other = tempfile::tempdir().unwrap();
    let other = other.path().join("elsewhere");
    write(&other);
    // Neither counts: what was built before, and when a file was written.
    fs::create_dir(other.join("target")).unwrap();
    fs::write(other.join("target/old"), "x").unwrap();
    let (one, other) = (build(one.path()), build(&other));
    assert_eq!(one, other);
    assert_eq!(one.digest().as_str(), DIGEST);
}

#[test]
fn the_bill_lists_what_the_agent_is_made_of_and_no_secret() {
    let dir = agent();
    let artifact = build(dir.path());
    let bill: Value = serde_json::from_slice(artifact.sbom()).unwrap();
    assert_eq!(
        (&bill["bomFormat"], &bill["specVersion"]),
        (&json!("CycloneDX"), &json!("1.6"))
    );
    let components = bill["components"].as_array().unwrap();
    let named = |reference: &str| {
        let found = components.iter().find(|part| part["bom-ref"] == reference);
        found
            .unwrap_or_else(|| panic!("{reference}: {bill:#}"))
            .clone()
    };
    let shout = named("tool:shout");
    assert_eq!(shout["version"], "2.1.0");
    let script = fs::read(dir.path().join("tools/shout.sh")).unwrap();
    let digest = rune_oci::Digest::of(&script);
    assert_eq!(
        shout["hashes"],
        json!([{"alg": "SHA-256", "content": digest.hex()}])
    );
    for reference in [
        "tool:rune@system-time",
        "tool:docs/find",
        "image:acme/box:1",
        "model:openai/gpt-x",
    ] {
        named(reference);
    }
    assert_eq!(
        bill["services"][0]["endpoints"],
        json!(["https://docs.example.org/mcp"])
    );
    let text = bill.to_string();
    assert!(!text.contains("word") && !text.contains("hidden"), "{text}");
}

#[test]
fn a_layout_survives_its_file_and_its_directory() {
    let (key, _) = SigningKey::generate().unwrap();
    let layout = signed(&key, None);
    let dir = tempfile::tempdir().unwrap();
    for name in ["a.tar", "a"] {
        let path = dir.path().join(name);
        layout.write(&path).unwrap();
        assert!(Layout::is_at(&path));
        let read = Layout::read(&path).unwrap();
        assert_eq!(read, layout);
        // Over itself, but over nothing else.
        layout.write(&path).unwrap();
    }
    let other = dir.path().join("other");
    let package = layout.artifact.package();
    // Neither a file nor an archive of something else.
    for mine in [b"mine".as_slice(), package.as_ref()] {
        fs::write(&other, mine).unwrap();
        assert!(!Layout::is_at(&other));
        assert!(layout.write(&other).is_err());
        assert_eq!(fs::read(&other).unwrap(), mine);
    }
    assert_eq!(layout.to_tar().unwrap(), layout.to_tar().unwrap());
}

#[test]
fn a_layout_has_nothing_of_what_was_built_there_before() {
    let dir = tempfile::tempdir().unwrap();
    let (path, alone) = (dir.path().join("layout"), dir.path().join("alone"));
    let source = agent();
    fs::write(source.path().join("leaked"), "a password").unwrap();
    let unsigned = |source: &Path| Layout {
        artifact: build(source),
        signatures: Signatures::default(),
    };
    unsigned(source.path()).write(&path).unwrap();
    fs::remove_file(source.path().join("leaked")).unwrap();
    let layout = unsigned(source.path());
    for path in [&path, &alone] {
        layout.write(path).unwrap();
    }
    let blobs = |path: &Path| {
        let blobs = fs::read_dir(path.join("blobs/sha256")).unwrap();
        let names = blobs.map(|blob| blob.unwrap().file_name());
        let mut names: Vec<_> = names.collect();
        names.sort();
        names
    };
    assert_eq!(blobs(&path), blobs(&alone));
    assert_eq!(Layout::read(&path).unwrap(), layout);
}

#[test]
fn an_artefact_with_two_tags_is_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("layout");
    let (key, _) = SigningKey::generate().unwrap();
    let layout = signed(&key, None);
    layout.write(&path).unwrap();
    let index = path.join("index.json");
    let text = fs::read_to_string(&index).unwrap();
    let mut listed: Value = serde_json::from_str(&text).unwrap();
    let manifests = listed["manifests"].as_array_mut().unwrap();
    let mut tagged = manifests[0].clone();
    tagged["annotations"]["org.opencontainers.image.ref.name"] = json!("latest");
    manifests.push(tagged);
    fs::write(&index, listed.to_string()).unwrap();
    assert_eq!(Layout::read(&path).unwrap(), layout);
}

#[test]
fn an_index_with_more_manifests_than_anybody_signs_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("layout");
    let (key, _) = SigningKey::generate().unwrap();
    signed(&key, None).write(&path).unwrap();
    let index = path.join("index.json");
    let text = fs::read_to_string(&index).unwrap();
    let mut listed: Value = serde_json::from_str(&text).unwrap();
    let manifests = listed["manifests"].as_array_mut().unwrap();
    let signature = manifests.last().unwrap().clone();
    manifests.extend(std::iter::repeat_n(signature, 128));
    fs::write(&index, listed.to_string()).unwrap();
    let error = Layout::read(&path).unwrap_err().to_string();
    assert!(error.contains("more than 128 manifests"), "{error}");
}

#[test]
fn one_changed_bit_is_found_wherever_it_is() {
    let (key, _) = SigningKey::generate().unwrap();
    let layout = signed(&key, None);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("layout");
    layout.write(&path).unwrap();
    let blobs = path.join("blobs/sha256");
    let mut spoiled = 0;
    for blob in fs::read_dir(&blobs).unwrap().map(Result::unwrap) {
        let before = fs::read(blob.path()).unwrap();
        let mut after = before.clone();
        let middle = after.len() / 2;
        after[middle] ^= 1;
        fs::write(blob.path(), after).unwrap();
        // The empty configuration of a signature says nothing and is not read.
        if before != b"{}" {
            let error = Layout::read(&path).unwrap_err();
            assert!(matches!(error, OciError::Digest { .. }), "{error}");
            spoiled += 1;
        }
        fs::write(blob.path(), before).unwrap();
    }
    assert_eq!(spoiled, 6);
}

#[test]
fn signatures_say_who_signed_what_and_where() {
    let (key, _) = SigningKey::generate().unwrap();
    let (other, _) = SigningKey::generate().unwrap();
    let layout = signed(&key, Some("ghcr.io/acme/hello"));
    let digest = layout.artifact.digest();
    let signatures = &layout.signatures;
    let verified = signatures.verify(
        &[other.public(), key.public()],
        digest,
        Some("ghcr.io/acme/hello"),
    );
    assert_eq!(verified.unwrap().key, key.public().id());
    let cases = [
        (Signatures::default(), key.public(), None, Refusal::Unsigned),
        (
            signatures.clone(),
            other.public(),
            None,
            Refusal::UnknownKey(key.public().id()),
        ),
        (
            signatures.clone(),
            key.public(),
            Some("ghcr.io/acme/other"),
            Refusal::OtherRepository {
                signed: "ghcr.io/acme/hello".to_owned(),
                wanted: "ghcr.io/acme/other".to_owned(),
            },
        ),
    ];
    for (signatures, key, repository, expected) in cases {
        assert_eq!(signatures.verify(&[key], digest, repository), Err(expected));
    }
    let stranger = rune_oci::Digest::of(b"something else");
    let refused = signatures.verify(&[key.public()], &stranger, None);
    assert_eq!(refused, Err(Refusal::Invalid(key.public().id())));
    // One that is signed nowhere may come from here, and from no repository.
    let local = signed(&key, None);
    assert!(
        local
            .signatures
            .verify(&[key.public()], digest, None)
            .is_ok()
    );
    assert!(
        local
            .signatures
            .verify(&[key.public()], digest, Some("ghcr.io/acme/hello"))
            .is_err()
    );
}

/// Debian's `skopeo` reads what is written here.
#[test]
fn skopeo_reads_the_layout() {
    if !Path::new("/usr/bin/skopeo").is_file() {
        rune_testkit::skip("skopeo is not installed");
        return;
    }
    let (key, _) = SigningKey::generate().unwrap();
    let layout = signed(&key, None);
    let dir = tempfile::tempdir().unwrap();
    let skopeo = |args: &[&str]| {
        let output = Command::new("/usr/bin/skopeo")
            .args(args)
            .current_dir(dir.path())
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{args:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        output.stdout
    };
    for (name, transport) in [("a", "oci:a:1.0.0"), ("a.tar", "oci-archive:a.tar:1.0.0")] {
        layout.write(&dir.path().join(name)).unwrap();
        let manifest = skopeo(&["inspect", "--raw", transport]);
        assert_eq!(
            &rune_oci::Digest::of(&manifest),
            layout.artifact.digest(),
            "{name}"
        );
    }
    skopeo(&[
        "--insecure-policy",
        "copy",
        "--preserve-digests",
        "oci:a:1.0.0",
        "oci:b:1.0.0",
    ]);
    let copy = Layout::read(&dir.path().join("b")).unwrap();
    assert_eq!(copy.artifact, layout.artifact);
}

/// The schema of CycloneDX, where a Python with its official library is named.
#[test]
fn the_bill_is_valid_cyclonedx() {
    #[expect(
        clippy::disallowed_methods,
        reason = "where the library is, is of the machine that runs the tests"
    )]
    let Some(python) = std::env::var_os("RUNE_TEST_SBOM_PYTHON") else {
        rune_testkit::skip(
            "RUNE_TEST_SBOM_PYTHON names no Python with cyclonedx-python-lib; .ci/run makes one",
        );
        return;
    };
    let dir = agent();
    let path = dir.path().join("bill.json");
    fs::write(&path, build(dir.path()).sbom()).unwrap();
    let check = "import sys\n\
        from cyclonedx.schema import SchemaVersion\n\
        from cyclonedx.validation.json import JsonStrictValidator\n\
        found = JsonStrictValidator(SchemaVersion.V1_6).validate_str(open(sys.argv[1]).read())\n\
        sys.exit(repr(found) if found else 0)\n";
    let output = Command::new(python)
        .arg("-c")
        .arg(check)
        .arg(&path)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

proptest! {
    #[test]
    fn nothing_that_is_read_panics(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let bytes = Bytes::from(bytes);
        let _ = Layout::from_tar(&bytes);
        let _ = Artifact::parts(&bytes);
        let _ = String::from_utf8_lossy(&bytes).parse::<rune_oci::Reference>();
    }

    #[test]
    fn a_reference_is_read_as_it_is_shown(
        text in "([a-z]{1,9}(\\.[a-z]{1,3})?(:[0-9]{1,5})?/)?([a-z0-9]{1,50}[-._/]){5,8}[a-z]{1,40}(:[a-z]{1,3})?"
    ) {
        if let Ok(reference) = text.parse::<rune_oci::Reference>() {
            prop_assert_eq!(reference.to_string().parse(), Ok(reference));
        }
    }
}
