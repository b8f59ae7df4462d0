//! Registries: a round trip through two of them, and what comes of a registry that is not honest.

use bytes::Bytes;
use rune_oci::{
    Access, Artifact, DockerConfig, OciError, Reference, Registry, Signature, SigningKey,
    media_type,
};
use rune_testkit::{DockerRegistry, TestRegistry};

use crate::{agent, build};

fn reference(host: &str, rest: &str) -> Reference {
    format!("{host}/{rest}").parse().unwrap()
}

async fn open(reference: &Reference, access: Access) -> Registry {
    let docker = DockerConfig::default();
    Registry::open(reference, &docker, access).await.unwrap()
}

/// Puts the artefact of the agent there.
async fn pushed(reference: &Reference) -> Artifact {
    let dir = agent();
    let artifact = build(dir.path());
    let registry = open(reference, Access::Push).await;
    registry.push(&artifact, &|_| ()).await.unwrap();
    artifact
}

async fn pull(reference: &Reference) -> Result<Artifact, OciError> {
    open(reference, Access::Pull).await.pull(&|_| ()).await
}

async fn round_trip(host: &str) {
    let name = reference(host, "acme/hello:1.0.0");
    let artifact = pushed(&name).await;
    // Once more changes nothing.
    pushed(&name).await;
    assert_eq!(pull(&name).await.unwrap(), artifact);
    assert_eq!(
        pull(&name.pinned(artifact.digest())).await.unwrap(),
        artifact
    );

    let registry = open(&name, Access::Push).await;
    assert!(
        registry
            .signatures(artifact.digest())
            .await
            .unwrap()
            .0
            .is_empty()
    );
    let keys = [(); 2].map(|()| SigningKey::generate().unwrap().0);
    for key in &keys {
        let signature = Signature::make(key, &artifact.descriptor(), Some(name.name()));
        registry
            .push_signature(artifact.digest(), &signature)
            .await
            .unwrap();
        registry
            .push_signature(artifact.digest(), &signature)
            .await
            .unwrap();
    }
    let found = registry.signatures(artifact.digest()).await.unwrap();
    assert_eq!(found.0.len(), 2);
    for key in &keys {
        let verified = found.verify(&[key.public()], artifact.digest(), Some(&name.name()));
        assert_eq!(verified.unwrap().key, key.public().id());
    }
    let missing = pull(&reference(host, "acme/hello:2.0.0"))
        .await
        .unwrap_err();
    assert!(matches!(missing, OciError::NotFound { .. }), "{missing}");
}

#[tokio::test]
async fn a_registry_with_the_referrers_api_keeps_packages_and_signatures() {
    let registry = TestRegistry::start(None).await.unwrap();
    round_trip(registry.host()).await;
    let tags = registry
        .asked()
        .into_iter()
        .filter(|asked| asked.contains("/manifests/sha256-"));
    assert_eq!(
        tags.count(),
        0,
        "the tag stands for what the registry has itself"
    );
}

#[tokio::test]
async fn the_registry_of_docker_keeps_packages_and_signatures() {
    let Some(registry) = DockerRegistry::find().unwrap() else {
        return;
    };
    round_trip(registry.host()).await;
}

#[tokio::test]
async fn credentials_come_from_docker() {
    let registry = TestRegistry::start(Some(("me", "pass:word")))
        .await
        .unwrap();
    let name = reference(registry.host(), "hello:1");
    let dir = agent();
    let artifact = build(dir.path());
    let host = registry.host();
    let auth = |pair: &str| {
        use base64::prelude::{BASE64_STANDARD, Engine as _};
        format!(
            r#"{{"auths":{{"{host}":{{"auth":"{}"}}}}}}"#,
            BASE64_STANDARD.encode(pair)
        )
    };
    for (config, authenticated) in [("{}".to_owned(), false), (auth("me:wrong"), true)] {
        let docker = DockerConfig::parse(&config).unwrap();
        let open = Registry::open(&name, &docker, Access::Push).await.unwrap();
        let error = open.push(&artifact, &|_| ()).await.unwrap_err();
        let OciError::Denied {
            authenticated: found,
            ..
        } = &error
        else {
            panic!("{error}");
        };
        assert_eq!(*found, authenticated, "{error}");
        assert!(error.help().unwrap().contains("docker login"), "{error}");
        assert!(!error.to_string().contains("me:wrong"), "{error}");
    }
    let docker = DockerConfig::parse(&auth("me:pass:word")).unwrap();
    let open = Registry::open(&name, &docker, Access::Push).await.unwrap();
    open.push(&artifact, &|_| ()).await.unwrap();
    assert_eq!(open.pull(&|_| ()).await.unwrap(), artifact);
}

#[tokio::test]
async fn what_a_registry_has_changed_is_refused() {
    let registry = TestRegistry::start(None).await.unwrap();
    let name = reference(registry.host(), "hello:1");
    let artifact = pushed(&name).await;
    let package = rune_oci::Digest::of(artifact.package());
    registry.spoil_blob(package.as_str());
    let error = pull(&name).await.unwrap_err();
    assert!(matches!(error, OciError::Digest { .. }), "{error}");
    registry.spoil_blob(package.as_str());
    assert_eq!(pull(&name).await.unwrap(), artifact);
    // A manifest in the place of another one: only who has pinned it knows.
    registry.spoil_manifest("hello", artifact.digest().as_str(), |manifest| {
        manifest["annotations"]["x"] = "y".into();
    });
    let error = pull(&name.pinned(artifact.digest())).await.unwrap_err();
    assert!(matches!(error, OciError::Digest { .. }), "{error}");
}

#[tokio::test]
async fn what_is_no_package_or_too_large_is_refused() {
    let registry = TestRegistry::start(None).await.unwrap();
    let image = br#"{"schemaVersion":2,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":2},"layers":[]}"#;
    let large = vec![b' '; 5 << 20];
    for (tag, bytes, expected) in [
        ("image", image.to_vec(), "vnd.oci.image.config"),
        ("large", large, "larger than"),
        ("none", b"not json".to_vec(), "cannot be read"),
    ] {
        registry.put_manifest("x", tag, media_type::MANIFEST, Bytes::from(bytes));
        let error = pull(&reference(registry.host(), &format!("x:{tag}")))
            .await
            .unwrap_err();
        assert!(error.to_string().contains(expected), "{tag}: {error}");
    }
}

#[tokio::test]
async fn nobody_at_the_address_is_said_so() {
    let name: Reference = "127.0.0.1:1/hello".parse().unwrap();
    let error = pull(&name).await.unwrap_err();
    assert!(matches!(error, OciError::Unreachable { .. }), "{error}");
    assert!(error.to_string().contains("127.0.0.1:1"), "{error}");
}
