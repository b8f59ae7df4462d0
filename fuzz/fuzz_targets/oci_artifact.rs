//! What registries and files of packages hold: manifests, layouts, envelopes, keys, references and Docker's configuration. A
//! reference that is read is the one that it is shown as.
#![no_main]

use bytes::Bytes;
use rune_oci::{
    Artifact, DockerConfig, Index, Layout, Manifest, PublicKey, Reference, SigningKey, verify_envelope,
};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _ = Manifest::parse(data);
    let _ = Index::parse(data);
    let _ = Artifact::parts(data);
    let _ = Layout::from_tar(&Bytes::copy_from_slice(data));
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(config) = DockerConfig::parse(text) {
        let _ = config.written("registry.example.org");
    }
    let _ = PublicKey::from_pem(text);
    let _ = SigningKey::from_pem(text);
    let _ = verify_envelope(text, &[]);
    if let Ok(reference) = text.parse::<Reference>() {
        assert_eq!(reference.to_string().parse(), Ok(reference));
    }
});
