//! From a configuration to a client.

use backup_core::{Error, ErrorKind, Result};
use opendal::layers::RetryLayer;
use opendal::{HttpTransporter, OperationContext, Operator, services};

use crate::config::{self, Credentials, Retrying, S3Place};
use crate::parts::Rules;
use crate::s3::S3Store;
use crate::s3::requests::Requests;
use crate::s3::transport::Transport;

/// The region that servers other than Amazon's take when they want none.
const REGION_OF_OTHERS: &str = "us-east-1";

/// Prepares the client; `environment` looks up variables.
pub(super) fn open(
    place: &S3Place,
    credentials: Option<&Credentials>,
    retry: Retrying,
    environment: impl Fn(&str) -> Option<String>,
) -> Result<S3Store> {
    let first = |names: &[&str]| {
        names.iter().find_map(|name| {
            environment(name).filter(|value| !value.is_empty()).map(|v| (v, (*name).to_owned()))
        })
    };
    // The order in which the S3 client would look, looked up here so that every endpoint is checked.
    let endpoint = match &place.endpoint {
        Some(endpoint) => Some(endpoint.clone()),
        None => match first(&["AWS_ENDPOINT_URL", "AWS_ENDPOINT", "AWS_S3_ENDPOINT"]) {
            Some((endpoint, from)) => {
                config::check_endpoint(&endpoint, place.allow_http).map_err(|problem| {
                    Error::new(ErrorKind::Config, format!("environment variable {from}"), problem.to_string())
                        .with_hint("set it to https://host, or give endpoint= with the destination")
                })?;
                Some(endpoint)
            }
            None => None,
        },
    };
    let amazon = endpoint.as_deref().is_none_or(is_amazon);
    let region = match (&place.region, first(&["AWS_REGION", "AWS_DEFAULT_REGION"])) {
        (Some(region), _) => region.clone(),
        (None, Some((region, _))) => region,
        (None, None) if !amazon => REGION_OF_OTHERS.to_owned(),
        (None, None) => {
            return Err(Error::new(ErrorKind::Config, place.to_string(), "the region is not set")
                .with_hint("add region=NAME to the destination or set AWS_REGION"));
        }
    };

    let mut builder = services::S3::default()
        .bucket(&place.bucket)
        .root(&format!("/{}", place.prefix))
        .region(&region)
        // Over every part and every object of one part.
        .checksum_algorithm("crc32c");
    if let Some(endpoint) = &endpoint {
        builder = builder.endpoint(endpoint);
    }
    if !place.path_style {
        builder = builder.enable_virtual_host_style();
    }
    if place.anonymous {
        builder = builder.skip_signature().disable_config_load();
    } else if let Some(credentials) = credentials {
        builder = builder
            .access_key_id(&credentials.access_key)
            .secret_access_key(&credentials.secret_key)
            .disable_config_load();
        if let Some(token) = &credentials.session_token {
            builder = builder.session_token(token);
        }
    }
    let transport = Transport::new(retry.patience, place.ca_file.as_deref(), !amazon)?;
    let context = OperationContext::new().with_http_transport(HttpTransporter::new(transport.clone()));
    let retries = RetryLayer::new()
        .with_max_times(retry.times)
        .with_min_delay(retry.min_delay)
        .with_max_delay(retry.max_delay)
        .with_jitter();
    let operator = Operator::new(builder)
        .map_err(|error| crate::trouble::from_opendal(place.to_string(), "setting up", &error))?
        .with_context(context)
        .layer(retries);
    let requests = Requests::new(place, endpoint.as_deref(), &region, credentials, transport.clone(), retry);
    Ok(S3Store {
        operator,
        name: place.to_string().into(),
        rules: Rules {
            parts_max: place.max_parts,
            equal: place.equal_parts,
            memory: place.part_memory,
            segment: place.compose.then_some(place.segment),
        },
        put_if_absent: place.put_if_absent.unwrap_or(amazon),
        transport,
        requests,
        lock: None,
        has_locks: tokio::sync::OnceCell::new(),
    })
}

/// Whether an endpoint is one of Amazon's.
pub(super) fn is_amazon(endpoint: &str) -> bool {
    url::Url::parse(endpoint)
        .ok()
        .and_then(|url| {
            url.host_str().map(|host| host == "amazonaws.com" || host.ends_with(".amazonaws.com"))
        })
        .unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use backup_core::Sink as _;

    use super::*;
    use crate::StorageConfig;
    use crate::config::Place;

    fn opened(text: &str, environment: &[(&str, &str)]) -> Result<S3Store> {
        let config = StorageConfig::from_url(text).unwrap();
        let Place::S3(place) = &config.place else { panic!("{text} is no S3") };
        open(place, None, config.retry, |name| {
            environment.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned())
        })
    }

    #[test]
    fn a_region_is_needed_only_at_amazon() {
        let error = opened("s3://b", &[]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(error.hint().unwrap().contains("region"));
        opened("s3://b?region=eu-1", &[]).unwrap();
        opened("s3://b", &[("AWS_REGION", "eu-1")]).unwrap();
        opened("s3://b?endpoint=https://s3.example", &[]).unwrap();
    }

    #[test]
    fn an_endpoint_from_the_environment_is_checked_too() {
        opened("s3://b", &[("AWS_ENDPOINT_URL", "https://s3.example")]).unwrap();
        let error = opened("s3://b", &[("AWS_ENDPOINT_URL", "http://s3.example")]).unwrap_err();
        assert!(error.subject().contains("AWS_ENDPOINT_URL"), "{error}");
        opened("s3://b?allow_http=true", &[("AWS_ENDPOINT_URL", "http://s3.example")]).unwrap();
    }

    #[test]
    fn only_amazon_is_trusted_to_refuse_seconds_by_itself() {
        let table = [
            ("s3://b?region=x", true),
            ("s3://b?region=x&endpoint=https://s3.eu-1.amazonaws.com", true),
            ("s3://b?endpoint=https://amazonaws.com.example", false),
            ("s3://b?endpoint=https://s3.example", false),
            ("s3://b?endpoint=https://s3.example&put_if_absent=true", true),
        ];
        for (text, trusted) in table {
            assert_eq!(opened(text, &[]).unwrap().limits().put_if_absent, trusted, "{text}");
        }
    }

    #[test]
    fn a_bad_authority_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let missing = folder.path().join("none.pem");
        let empty = folder.path().join("empty.pem");
        std::fs::write(&empty, "nothing").unwrap();
        for path in [missing, empty] {
            let path: PathBuf = path;
            let text = format!("s3://b?endpoint=https://s3.example&ca_file={}", path.display());
            let error = opened(&text, &[]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config);
            assert!(error.subject().contains("ca_file"), "{error}");
        }
    }
}
