//! Buckets of S3 and what speaks its protocol, of Google Cloud Storage, and containers of Azure.

use std::sync::Arc;
use std::time::Duration;

use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::path::Path;
use object_store::{ObjectStore as Backend, RetryConfig};
use url::Url;

use super::{ObjectError, Variables, open_error};

/// How often a request that failed for no fault of its own is sent again, and how long after the first: whoever waits for
/// an object is told before they give up.
const RETRIES: usize = 5;
const RETRY_FOR: Duration = Duration::from_secs(30);

/// What a URL names, and the path in it.
pub(super) fn open(
    url: &Url,
    variables: &Variables,
) -> Result<(Arc<dyn Backend>, Path), ObjectError> {
    // Without what may be a password in it.
    let host = url.host_str().unwrap_or_default();
    let shown = format!("{}://{host}", url.scheme());
    let failed = |error| open_error(&shown, &error);
    let has_more = url.port().is_some() || url.query().is_some() || url.fragment().is_some();
    let has_user = !url.username().is_empty() || url.password().is_some();
    if host.is_empty() || has_user || has_more {
        let expected = "expected a bucket and a prefix, such as s3://BUCKET/PREFIX; credentials come from the environment";
        return Err(open_error(&shown, expected));
    }
    let location = format!("{shown}{}", url.path());
    // An endpoint that somebody names without TLS is one that they want without it.
    let plain = variables
        .iter()
        .any(|(name, value)| name.contains("ENDPOINT") && value.starts_with("http://"));
    macro_rules! build {
        ($builder:expr) => {{
            let mut builder = $builder.with_url(location).with_retry(retry());
            for (name, value) in variables {
                if let Ok(key) = name.to_ascii_lowercase().parse() {
                    builder = builder.with_config(key, value);
                }
            }
            builder
        }};
    }
    let backend: Arc<dyn Backend> = match url.scheme() {
        "s3" => {
            let builder = build!(AmazonS3Builder::new()).with_allow_http(plain);
            Arc::new(builder.build().map_err(failed)?)
        }
        "gs" => Arc::new(
            build!(GoogleCloudStorageBuilder::new())
                .build()
                .map_err(failed)?,
        ),
        "az" => {
            let builder = build!(MicrosoftAzureBuilder::new()).with_allow_http(plain);
            Arc::new(builder.build().map_err(failed)?)
        }
        _ => {
            let known = "known are s3://, gs://, az:// and file://";
            return Err(open_error(&shown, known));
        }
    };
    let path = Path::from_url_path(url.path()).map_err(|error| open_error(&shown, &error))?;
    Ok((backend, path))
}

fn retry() -> RetryConfig {
    RetryConfig {
        max_retries: RETRIES,
        retry_timeout: RETRY_FOR,
        ..RetryConfig::default()
    }
}
