//! Who a node is, and how it shows it.
//!
//! The key of the authority that signs the certificates of a cluster is derived from the secret of
//! the cluster. So every node signs its own certificate, anew at each start and never written to
//! disk, and takes those that the same authority signed. The name in it is that of one node of one
//! cluster, whatever address it has.

use std::sync::Arc;

use hmac::{Hmac, KeyInit as _, Mac as _};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, PKCS_ED25519,
};
use rune_raft::NodeId;
use secrecy::{ExposeSecret as _, SecretString};
use sha2::{Digest as _, Sha256};
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::{
    CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName,
};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::version::TLS13;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, ServerConfig};
use webpki::EndEntityCert;

/// The only protocol that is spoken.
const ALPN: &[u8] = b"h2";

/// What comes before the 32 bytes of an Ed25519 key in its PKCS #8 form.
const ED25519_PKCS8: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];

/// Bytes of the name of a cluster.
const NAME_BYTES: usize = 16;

/// Why a node has no identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The secret can be guessed.
    #[error(
        "the secret of the cluster has {found} characters, at least {} are needed",
        ClusterSecret::MIN_CHARS
    )]
    Secret {
        /// How many it has.
        found: usize,
    },
    /// A certificate could not be made.
    #[error("cannot make a certificate")]
    Certificate(#[from] rcgen::Error),
    /// The certificate cannot be used.
    #[error("cannot set up TLS: {0}")]
    Tls(String),
}

/// What all nodes of a cluster know, and nobody else. Whoever has it can take part.
#[derive(Clone)]
pub struct ClusterSecret(SecretString);

impl ClusterSecret {
    /// The fewest characters of a secret: what 16 random bytes have in hexadecimal.
    pub const MIN_CHARS: usize = 32;

    /// The secret in a text; white space around it does not count.
    ///
    /// # Errors
    /// [`IdentityError::Secret`] where it is too short.
    pub fn parse(text: &SecretString) -> Result<Self, IdentityError> {
        let text = text.expose_secret().trim();
        let found = text.chars().count();
        if found < Self::MIN_CHARS {
            return Err(IdentityError::Secret { found });
        }
        Ok(Self(text.to_owned().into()))
    }

    /// The name of the cluster with this secret, which is none.
    #[must_use]
    pub fn cluster(&self) -> String {
        let name = self.derive(b"rune cluster name");
        let name = name.iter().take(NAME_BYTES);
        name.map(|byte| format!("{byte:02x}")).collect()
    }

    /// A key for this purpose, which every node of the cluster has: 64 hexadecimal digits.
    #[must_use]
    pub fn key(&self, purpose: &str) -> SecretString {
        let purpose = format!("rune key of {purpose}");
        let key = self.derive(purpose.as_bytes());
        let text: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
        text.into()
    }

    fn derive(&self, purpose: &[u8]) -> [u8; 32] {
        let mut key = [0; 64];
        let digest = Sha256::digest(self.0.expose_secret().as_bytes());
        for (byte, of) in key.iter_mut().zip(digest) {
            *byte = of;
        }
        let mut mac = Hmac::<Sha256>::new(&key.into());
        mac.update(purpose);
        mac.finalize().into_bytes().into()
    }

    /// The authority that signs the certificates of the cluster.
    fn authority(&self) -> Result<CertifiedIssuer<'static, KeyPair>, IdentityError> {
        let key = [&ED25519_PKCS8[..], &self.derive(b"rune cluster authority")].concat();
        let key = PrivatePkcs8KeyDer::from(key);
        let key = KeyPair::from_pkcs8_der_and_sign_algo(&key, &PKCS_ED25519)?;
        let mut params = CertificateParams::new(Vec::new())?;
        let name = format!("cluster {}", self.cluster());
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        Ok(CertifiedIssuer::self_signed(params, key)?)
    }
}

/// A node of a cluster with what shows it. Cheap to clone.
#[derive(Clone)]
pub struct Identity {
    node: NodeId,
    cluster: Arc<str>,
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
}

impl Identity {
    /// Node `node` of the cluster with this secret.
    ///
    /// # Errors
    /// An [`IdentityError`] where it cannot be shown.
    pub fn new(secret: &ClusterSecret, node: NodeId) -> Result<Self, IdentityError> {
        let cluster: Arc<str> = secret.cluster().into();
        let authority = secret.authority()?;
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(vec![host(&cluster, node)])?;
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ClientAuth,
            ExtendedKeyUsagePurpose::ServerAuth,
        ];
        let chain = vec![params.signed_by(&key, &authority)?.der().clone()];
        let key = || PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));

        let failed = |error: &dyn ToString| IdentityError::Tls(error.to_string());
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut roots = RootCertStore::empty();
        let added = roots.add(authority.der().clone());
        added.map_err(|error| failed(&error))?;
        let roots = Arc::new(roots);

        let client = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&TLS13])
            .map_err(|error| failed(&error))?
            .with_root_certificates(Arc::clone(&roots))
            .with_client_auth_cert(chain.clone(), key());
        let mut client = client.map_err(|error| failed(&error))?;
        client.alpn_protocols = vec![ALPN.to_vec()];

        let verifier = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider));
        let verifier = verifier.build().map_err(|error| failed(&error))?;
        let server = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .map_err(|error| failed(&error))?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key());
        let mut server = server.map_err(|error| failed(&error))?;
        server.alpn_protocols = vec![ALPN.to_vec()];
        Ok(Self {
            node,
            cluster,
            client: Arc::new(client),
            server: Arc::new(server),
        })
    }

    /// The node.
    #[must_use]
    pub const fn node(&self) -> NodeId {
        self.node
    }

    /// The name of the cluster.
    #[must_use]
    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    pub(crate) fn client(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.client)
    }

    pub(crate) fn server(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.server)
    }

    /// The name in the certificate of a node.
    pub(crate) fn host_of(&self, node: NodeId) -> String {
        host(&self.cluster, node)
    }

    /// [`Identity::host_of`], for TLS.
    pub(crate) fn name_of(&self, node: NodeId) -> Option<ServerName<'static>> {
        self.host_of(node).try_into().ok()
    }

    /// The node whose certificate this is, which the authority has signed.
    pub(crate) fn node_of(&self, certificates: Option<&[CertificateDer<'_>]>) -> Option<NodeId> {
        let certificate = EndEntityCert::try_from(certificates?.first()?).ok()?;
        let mut names = certificate.valid_dns_names();
        names.find_map(|name| {
            let (node, cluster) = name.strip_prefix("node-")?.split_once('.')?;
            let ours = cluster.strip_suffix(SUFFIX)? == &*self.cluster;
            node.parse().ok().filter(|_| ours)
        })
    }
}

/// What the names of nodes end with.
const SUFFIX: &str = ".rune.internal";

fn host(cluster: &str, node: NodeId) -> String {
    format!("node-{node}.{cluster}{SUFFIX}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(text: &str) -> ClusterSecret {
        ClusterSecret::parse(&text.to_owned().into()).unwrap()
    }

    #[test]
    fn a_secret_names_one_cluster_and_is_not_in_the_name() {
        let text = "0123456789abcdef0123456789abcdef";
        let padded = secret(&format!("  {text}\n"));
        assert_eq!(secret(text).cluster(), padded.cluster());
        let longer = secret(&text.repeat(4));
        assert_ne!(secret(text).cluster(), longer.cluster());
        assert!(!text.contains(&padded.cluster()));
        let short = ClusterSecret::parse(&"0123".to_owned().into());
        let message = short.err().unwrap().to_string();
        assert!(message.contains("4 characters"), "{message}");
    }

    #[test]
    fn the_authority_is_the_same_whenever_it_is_made() {
        let text = "0123456789abcdef0123456789abcdef";
        let key = |secret: &ClusterSecret| secret.authority().unwrap().key().public_key_pem();
        assert_eq!(key(&secret(text)), key(&secret(text)));
        assert_ne!(key(&secret(text)), key(&secret(&text.repeat(2))));
    }
}
