//! Tokens that a service gives for a while.

use std::time::{Duration, Instant};

use async_trait::async_trait;
use backup_core::Result;
use serde::Deserialize;
use tokio::sync::Mutex;
use zeroize::Zeroizing;

use crate::rest::http::Fault;
use crate::trouble::Trouble;

/// A token is renewed when it has less than this to live.
const RESERVE: Duration = Duration::from_secs(300);

/// The answer of whoever gives tokens (RFC 6749 section 5.1).
#[derive(Deserialize)]
pub(crate) struct Granted {
    access_token: String,
    /// Azure's metadata service writes it as a text.
    expires_in: Seconds,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Seconds {
    Number(u64),
    Text(String),
}

impl Granted {
    /// Reads an answer.
    pub(crate) fn read(body: &[u8]) -> Result<Self, Fault> {
        // What stands there may be a token, so it is not repeated.
        serde_json::from_slice(body).map_err(|_| {
            Fault::new(Trouble::NoCredentials, "the answer to a request for a token is not understood")
        })
    }

    fn bearer(self) -> (Zeroizing<String>, Duration) {
        let life = self.life();
        let token = Zeroizing::new(self.access_token);
        (Zeroizing::new(format!("Bearer {}", token.as_str())), life)
    }

    fn life(&self) -> Duration {
        let seconds = match &self.expires_in {
            Seconds::Number(seconds) => *seconds,
            Seconds::Text(text) => text.parse().unwrap_or_default(),
        };
        Duration::from_secs(seconds)
    }
}

/// Whoever gives tokens.
#[async_trait]
pub(crate) trait Grant: Send + Sync {
    async fn grant(&self) -> Result<Granted, Fault>;
}

/// Keeps a token until it is about to end.
pub(crate) struct Tokens {
    grant: Box<dyn Grant>,
    kept: Mutex<Option<(Zeroizing<String>, Instant)>>,
}

impl Tokens {
    pub(crate) fn new(grant: impl Grant + 'static) -> Self {
        Self { grant: Box::new(grant), kept: Mutex::default() }
    }

    /// The value of `Authorization`.
    pub(crate) async fn bearer(&self) -> Result<Zeroizing<String>, Fault> {
        let mut kept = self.kept.lock().await;
        if let Some((token, until)) = kept.as_ref()
            && Instant::now() + RESERVE < *until
        {
            return Ok(token.clone());
        }
        let (token, life) = self.grant.grant().await?.bearer();
        *kept = Some((token.clone(), Instant::now() + life));
        Ok(token)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Counting(std::sync::atomic::AtomicUsize, u64);

    #[async_trait]
    impl Grant for Counting {
        async fn grant(&self) -> Result<Granted, Fault> {
            let n = self.0.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            Granted::read(format!("{{\"access_token\":\"t{n}\",\"expires_in\":\"{}\"}}", self.1).as_bytes())
        }
    }

    #[tokio::test]
    async fn a_token_is_kept_until_shortly_before_its_end() {
        let long = Tokens::new(Counting(0.into(), 3600));
        assert_eq!(long.bearer().await.unwrap().as_str(), "Bearer t0");
        assert_eq!(long.bearer().await.unwrap().as_str(), "Bearer t0");
        let short = Tokens::new(Counting(0.into(), 60));
        assert_eq!(short.bearer().await.unwrap().as_str(), "Bearer t0");
        assert_eq!(short.bearer().await.unwrap().as_str(), "Bearer t1");
    }

    #[test]
    fn what_is_not_understood_is_not_repeated() {
        let fault = Granted::read(b"{\"access_token\": \"hunter2\"}").err().unwrap();
        assert!(!format!("{fault:?}").contains("hunter2"));
    }
}
