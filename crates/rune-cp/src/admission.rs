//! What comes in: packages, and where they run.
//!
//! A package is admitted when it is published, by the signatures that come with it and the operator's policies, and once more
//! whenever it is deployed, by the signature that was kept: a key that is not trusted any more deploys nothing, nor does what was
//! published before there were keys. What runs already goes on. How much a namespace may have is looked at by the store, in the
//! same step in which it gets more.

use bytes::Bytes;
use rune_http::{ApiError, Caller};
use rune_oci::{
    Digest, Layout, OciError, PublicKey, Refusal, Signatures, Verified, verify_envelope,
};
use rune_runtime::{
    AdmissionPolicies, AdmissionQuery, AdmittedDeployment, AdmittedVersion, Verdict,
};
use rune_store_runtime::{DeploymentRow, ErrorCode, Quota, VersionRow};

use crate::audit;
use crate::control_plane::Shared;
use crate::package::check;

/// What an operator says about what may be published and deployed.
#[derive(Debug, Default)]
pub struct Admission {
    /// Whose packages are admitted; empty: those of everybody.
    pub trusted_keys: Vec<PublicKey>,
    /// What a namespace may come to.
    pub quota: Quota,
    /// What is not admitted although it is valid.
    pub policies: AdmissionPolicies,
}

/// What was sent.
pub(crate) struct Upload {
    pub(crate) package: Bytes,
    /// The artefact that the signatures are about.
    signed: Option<(Digest, Signatures)>,
}

impl Upload {
    /// A package alone.
    pub(crate) const fn package(package: Bytes) -> Self {
        Self {
            package,
            signed: None,
        }
    }

    /// A layout with a package and its signatures, everything compared with its digest.
    pub(crate) async fn layout(bytes: Bytes) -> Result<Self, ApiError> {
        let read = tokio::task::spawn_blocking(move || Layout::from_tar(&bytes)).await;
        let read = read.map_err(|error| ApiError::internal(format!("layout: {error}")))?;
        let layout = read.map_err(|error| match error {
            OciError::TooLarge { .. } => ApiError::new(ErrorCode::TooLarge, error.to_string()),
            error => ApiError::invalid(error.to_string()),
        })?;
        let digest = layout.artifact.digest().clone();
        Ok(Self {
            package: layout.artifact.package().clone(),
            signed: Some((digest, layout.signatures)),
        })
    }
}

/// A change that somebody asks for, as the audit trail names it.
pub(crate) struct Asked<'a> {
    pub(crate) shared: &'a Shared,
    pub(crate) caller: &'a Caller,
    pub(crate) kind: &'static str,
}

impl Asked<'_> {
    /// Answers what came of the change of a resource; where that is a refusal, once it is in the audit trail.
    pub(crate) async fn audited<T>(
        &self,
        resource: String,
        change: impl Future<Output = Result<T, ApiError>> + Send,
    ) -> Result<T, ApiError> {
        let error = match Box::pin(change).await {
            Ok(done) => return Ok(done),
            Err(error) => error,
        };
        if is_refusal(error.code()) {
            let reason = error.message().to_owned();
            let row = audit::refusal(self.caller, self.kind, resource, reason);
            self.shared.store.write(row).await?;
        }
        Err(error)
    }

    /// Admits what is to be published: the signature of a trusted key, where there has to be one, and no policy against it.
    pub(crate) fn publish(
        &self,
        version: &mut AdmittedVersion,
        upload: &Upload,
    ) -> Result<Option<Verified>, ApiError> {
        let admission = &self.shared.admission;
        let verified = match &upload.signed {
            _ if admission.trusted_keys.is_empty() => None,
            Some((digest, signatures)) => {
                Some(signatures.verify(&admission.trusted_keys, digest, None))
            }
            None => Some(Err(Refusal::Unsigned)),
        };
        let verified = verified
            .transpose()
            .map_err(|it| unsigned(&version.id(), &it))?;
        version.signed = verified.is_some();
        self.decide(&AdmissionQuery::Publish(version), &version.id())?;
        Ok(verified)
    }

    /// Admits that a version runs somewhere.
    pub(crate) async fn deploy(
        &self,
        version: &VersionRow,
        place: AdmittedDeployment<'_>,
    ) -> Result<(), ApiError> {
        let admission = &self.shared.admission;
        let keys = &admission.trusted_keys;
        if !keys.is_empty() {
            // That the envelope is about this package was found when it was published.
            let kept = version.signature.as_deref().ok_or(Refusal::Unsigned);
            kept.and_then(|envelope| verify_envelope(envelope, keys))
                .map_err(|it| unsigned(&format!("{} {}", version.agent, version.version), &it))?;
        }
        if !admission.policies.asks_about_deploying() {
            return Ok(());
        }
        let package = self.shared.blobs.get(&version.digest).await?;
        let mut checked = check(package).await?.version;
        checked.signed = !keys.is_empty();
        let resource = audit::resource(place.namespace, &version.agent, place.alias);
        self.decide(&AdmissionQuery::Deploy(&checked, place), &resource)
    }

    /// [`Asked::deploy`] of a deployment that is there, with so many replicas.
    pub(crate) async fn redeploy(
        &self,
        row: &DeploymentRow,
        version: &VersionRow,
        replicas: u32,
    ) -> Result<(), ApiError> {
        let place = AdmittedDeployment {
            namespace: &row.namespace,
            alias: &row.alias,
            replicas,
        };
        self.deploy(version, place).await
    }

    fn decide(&self, query: &AdmissionQuery<'_>, resource: &str) -> Result<(), ApiError> {
        let policies = &self.shared.admission.policies;
        let decided = policies.decide(&self.caller.id, query);
        let Some(denied) = decided.filter(|it| it.verdict != Verdict::Allowed) else {
            return Ok(());
        };
        let by = match denied.policy_ids.as_slice() {
            [] => String::new(),
            ids => format!(" (`{}`)", ids.join("`, `")),
        };
        let message = format!(
            "{resource} is not admitted: {}{by}; that is a policy of `admission.policies` of the daemon",
            denied.reason
        );
        Err(ApiError::new(ErrorCode::Denied, message))
    }
}

/// Whether an error says that something is not admitted, and not that it is not there or cannot be done now.
const fn is_refusal(code: ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::InvalidInput
            | ErrorCode::Denied
            | ErrorCode::Conflict
            | ErrorCode::TooLarge
            | ErrorCode::LimitExceeded
    )
}

fn unsigned(resource: &str, refusal: &Refusal) -> ApiError {
    let message =
        format!("{resource} is not admitted: {refusal}; only signed packages are deployed here");
    ApiError::new(ErrorCode::Denied, message)
}
