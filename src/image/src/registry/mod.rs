//! One repository of one registry, wherever its hosts are: documents by tag or digest, blobs in pieces.

mod auth;
mod connect;
mod error;
mod hosts;
mod proxy;
mod tls;
mod transport;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use model::{Digest, ImageRef};
use telemetry::field;

use crate::config::ImageConfig;
use crate::counters::Counters;
use crate::credentials::Credentials;
use crate::hash::{self, Hasher};
use crate::unpack::Feed;
use auth::{Challenge, Identity};
pub use error::RegistryError;
use hosts::Host;
pub use hosts::check_hosts;
pub use proxy::ProxyConfig;
use transport::{Ask, Transport, protocol, without_query};

/// A token server's answer, bytes.
const TOKEN_BYTES_MAX: usize = 256 * 1024;
/// The longest pause between two attempts, whatever the registry asks for.
const BACKOFF_MAX: Duration = Duration::from_secs(20);
/// So much progress makes a broken transfer a fresh one, bytes.
const PROGRESS_BYTES: u64 = 1024 * 1024;

/// A repository, with everything that talking about it needs. Lives as long as one pull.
pub(crate) struct Repository {
    reference: ImageRef,
    hosts: Vec<Endpoint>,
    config: ImageConfig,
    counters: Arc<Counters>,
}

/// One host, and how we are let in there.
struct Endpoint {
    host: Host,
    transport: Transport,
    identity: Identity,
    /// The Authorization header that worked last.
    authorization: tokio::sync::Mutex<Option<HeaderValue>>,
}

/// A manifest, an index or a configuration.
pub(crate) struct Document {
    pub(crate) digest: Digest,
    /// What the registry calls it, without parameters.
    pub(crate) media_type: Option<String>,
    pub(crate) bytes: Bytes,
}

/// A document that is asked for.
struct Wanted {
    path: String,
    accept: &'static str,
    /// Bytes.
    max: usize,
    /// What it must be; a tag does not say.
    digest: Option<Digest>,
}

impl Repository {
    /// Reads the hosts' configuration; asks nobody yet.
    pub(crate) fn open(
        reference: &ImageRef,
        credentials: Option<&Credentials>,
        config: &ImageConfig,
        counters: &Arc<Counters>,
    ) -> Result<Self, RegistryError> {
        let domain = reference.domain();
        let hosts = hosts::hosts_for(domain, &config.registry_config_dirs)?;
        let hosts = hosts.into_iter().map(|host| {
            let identity = Identity::new(credentials, &host, domain);
            let token = match &identity {
                Identity::Bearer(token) => auth::bearer(token),
                _ => None,
            };
            let transport = Transport::new(&host, config.proxies.clone(), config.stall_max)?;
            Ok(Endpoint { host, transport, identity, authorization: tokio::sync::Mutex::new(token) })
        });
        Ok(Self {
            reference: reference.clone(),
            hosts: hosts.collect::<Result<_, _>>()?,
            config: config.clone(),
            counters: counters.clone(),
        })
    }

    /// The manifest or index that the reference names.
    pub(crate) async fn resolve(&self, accept: &'static str, max: usize) -> Result<Document, RegistryError> {
        match (self.reference.digest(), self.reference.tag()) {
            (Some(digest), _) => self.manifest(digest, accept, max).await,
            (None, tag) => {
                let path = format!("manifests/{}", tag.unwrap_or("latest"));
                self.document(&Wanted { path, accept, max, digest: None }).await
            }
        }
    }

    /// A manifest by its digest, which is verified.
    pub(crate) async fn manifest(
        &self,
        digest: &Digest,
        accept: &'static str,
        max: usize,
    ) -> Result<Document, RegistryError> {
        let path = format!("manifests/{digest}");
        self.document(&Wanted { path, accept, max, digest: Some(digest.clone()) }).await
    }

    /// A small blob by its digest, which is verified.
    pub(crate) async fn small_blob(&self, digest: &Digest, max: usize) -> Result<Document, RegistryError> {
        let path = format!("blobs/{digest}");
        self.document(&Wanted { path, accept: "*/*", max, digest: Some(digest.clone()) }).await
    }

    /// Feeds the bytes of a blob, in order, until nobody wants more; tells how many there are so far. A
    /// transfer that breaks is taken up where it broke, on the same host and then on the next. The first hosts are
    /// passed over, as many as is said; who gives the first byte is noted.
    pub(crate) async fn blob(
        &self,
        digest: &Digest,
        size: u64,
        passed_over: usize,
        gave: &OnceLock<usize>,
        feed: &Feed,
        told: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<(), RegistryError> {
        let path = format!("blobs/{digest}");
        let mut done = 0;
        let mut failure = None;
        let mut resumed = 0;
        let hosts = self.hosts_that(|host| host.pull).into_iter().enumerate();
        for (number, (endpoint, last)) in hosts.skip(passed_over) {
            let mut attempts = self.attempts(last);
            loop {
                let before = done;
                let transferred = self.transfer(endpoint, &path, size, &mut done, feed, told).await;
                if done > 0 {
                    gave.get_or_init(|| number);
                }
                match transferred {
                    Ok(()) => return Ok(()),
                    // No other host can go on from there.
                    Err(error @ RegistryError::TooLong { .. }) => return Err(error),
                    Err(error) => {
                        if done - before >= PROGRESS_BYTES {
                            attempts = self.attempts(last);
                        }
                        // One that was sending is worth another try also where there is another host.
                        resumed += u32::from(done > before);
                        let resume = done > before && resumed < self.config.attempts_max;
                        if !error.is_passing() || !(attempts.left > 0 || resume) {
                            tracing::info!(%digest, error = %model::chain(&error), "blob not had from this host");
                            failure = Some(error);
                            break;
                        }
                        self.pause(&mut attempts, &error).await;
                    }
                }
            }
        }
        Err(failure.unwrap_or_else(|| self.no_host()))
    }

    async fn transfer(
        &self,
        endpoint: &Endpoint,
        path: &str,
        size: u64,
        done: &mut u64,
        feed: &Feed,
        told: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<(), RegistryError> {
        let url = self.url(endpoint, path);
        let mut public = HeaderMap::new();
        if *done > 0 {
            let range = HeaderValue::try_from(format!("bytes={done}-"))
                .map_err(|e| protocol(&url, &e.to_string()))?;
            public.insert(header::RANGE, range);
        }
        let answer = self.ask(endpoint, &url, public).await?;
        // A host that does not know ranges begins again: what we have is passed over.
        let mut pass_over = match answer.status() {
            StatusCode::PARTIAL_CONTENT => {
                let begins =
                    answer.headers().get(header::CONTENT_RANGE).and_then(|value| value.to_str().ok());
                if begins.is_some_and(|range| !range.starts_with(&format!("bytes {done}-"))) {
                    return Err(protocol(&url, "answers with another range than was asked for"));
                }
                0
            }
            _ => *done,
        };
        let stall_max = self.config.stall_max;
        let mut body = answer.into_body();
        loop {
            let shown = || without_query(&url);
            let frame = tokio::time::timeout(stall_max, body.frame()).await;
            let frame = frame.map_err(|_| RegistryError::Stalled { url: shown(), after: stall_max })?;
            let Some(frame) = frame else { break };
            let frame = frame.map_err(|error| RegistryError::Unreachable {
                action: "read from",
                url: shown(),
                source: error.into(),
            })?;
            let Ok(mut bytes) = frame.into_data() else { continue };
            Counters::add(&self.counters.pulled_bytes, bytes.len() as u64);
            let over = bytes.len().min(usize::try_from(pass_over).unwrap_or(usize::MAX));
            pass_over -= over as u64;
            bytes = bytes.split_off(over);
            if bytes.is_empty() {
                continue;
            }
            *done += bytes.len() as u64;
            if *done > size {
                return Err(RegistryError::TooLong { url: shown(), size });
            }
            told(*done);
            if !feed.piece(bytes).await {
                return Ok(());
            }
        }
        if *done < size {
            let why = format!("ended after {done} of {size} bytes");
            return Err(RegistryError::Unreachable {
                action: "read from",
                url: without_query(&url),
                source: why.into(),
            });
        }
        Ok(())
    }

    /// Asks one host after another until one has it. The last one's refusal is told: it is the registry's own.
    async fn document(&self, wanted: &Wanted) -> Result<Document, RegistryError> {
        let mut failure = None;
        for (endpoint, last) in
            self.hosts_that(|host| if wanted.digest.is_some() { host.pull } else { host.resolve })
        {
            let mut attempts = self.attempts(last);
            loop {
                match self.document_of(endpoint, wanted).await {
                    Ok(document) => return Ok(document),
                    Err(error) if error.is_passing() && attempts.left > 0 => {
                        self.pause(&mut attempts, &error).await;
                    }
                    Err(error) => {
                        tracing::info!(host = endpoint.host.authority, error = %model::chain(&error), "host refused");
                        failure = Some(error);
                        break;
                    }
                }
            }
        }
        Err(failure.unwrap_or_else(|| self.no_host()))
    }

    async fn document_of(&self, endpoint: &Endpoint, wanted: &Wanted) -> Result<Document, RegistryError> {
        let url = self.url(endpoint, &wanted.path);
        let public = HeaderMap::from_iter([(header::ACCEPT, HeaderValue::from_static(wanted.accept))]);
        let answer = self.ask(endpoint, &url, public).await?;
        let media_type = answer.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let media_type =
            media_type.and_then(|text| text.split(';').next()).map(|text| text.trim().to_owned());
        let bytes = endpoint.transport.read(&url, answer, wanted.max).await?;
        Counters::add(&self.counters.pulled_bytes, bytes.len() as u64);
        let Some(expected) = &wanted.digest else {
            return Ok(Document { digest: hash::sha256(&bytes), media_type, bytes });
        };
        let mut hasher = Hasher::like(expected);
        hasher.update(&bytes);
        let found = hasher.finish();
        if found != expected.as_str() {
            let url = without_query(&url);
            return Err(RegistryError::Digest { url, expected: expected.clone(), found });
        }
        Ok(Document { digest: expected.clone(), media_type, bytes })
    }

    /// How many hosts can be asked for blobs.
    pub(crate) fn blob_hosts(&self) -> usize {
        self.hosts.iter().filter(|endpoint| endpoint.host.pull).count()
    }

    /// The hosts that can, each with whether it is the last.
    fn hosts_that(&self, can: impl Fn(&Host) -> bool) -> Vec<(&Endpoint, bool)> {
        let mut hosts: Vec<_> = self
            .hosts
            .iter()
            .filter(|endpoint| can(&endpoint.host))
            .map(|endpoint| (endpoint, false))
            .collect();
        if let Some((_, last)) = hosts.last_mut() {
            *last = true;
        }
        hosts
    }

    /// Where another host can be asked, one attempt is enough.
    fn attempts(&self, last: bool) -> Attempts {
        let left = if last { self.config.attempts_max.saturating_sub(1) } else { 0 };
        Attempts { left, pause: self.config.backoff_first }
    }

    async fn pause(&self, attempts: &mut Attempts, error: &RegistryError) {
        Counters::add(&self.counters.retries, 1);
        // Half of it by chance, so that a thousand nodes do not come back as one.
        let chance = kernel::random::id_bytes().map_or(128, |bytes| u32::from(bytes[0]));
        let jittered = attempts.pause / 2 + attempts.pause / 2 * chance / 255;
        let pause = error.retry_after().unwrap_or(jittered).min(BACKOFF_MAX);
        tracing::debug!(error = %model::chain(error), pause_ms = pause.as_millis(), "trying again");
        tokio::time::sleep(pause).await;
        attempts.left = attempts.left.saturating_sub(1);
        attempts.pause = (attempts.pause * 2).min(BACKOFF_MAX);
    }

    fn no_host(&self) -> RegistryError {
        protocol(self.reference.domain(), "no host of its configuration has the capability that is needed")
    }

    fn url(&self, endpoint: &Endpoint, path: &str) -> String {
        let mut url = format!("{}/{}/{path}", endpoint.host.base, self.reference.path());
        if !endpoint.host.upstream {
            url += &format!("?ns={}", auth::escape(self.reference.domain()));
        }
        url
    }

    /// One GET, with whatever it takes to be let in.
    async fn ask(
        &self,
        endpoint: &Endpoint,
        url: &str,
        public: HeaderMap,
    ) -> Result<Response<Incoming>, RegistryError> {
        let stage =
            self.config.stages.begin("registry_request", &[(field::REGISTRY_HOST, &endpoint.host.authority)]);
        stage.run(self.ask_let_in(endpoint, url, public)).await
    }

    async fn ask_let_in(
        &self,
        endpoint: &Endpoint,
        url: &str,
        public: HeaderMap,
    ) -> Result<Response<Incoming>, RegistryError> {
        let mut ask = Ask { public, private: endpoint.host.headers.clone(), ..Ask::get(url) };
        let known = endpoint.authorization.lock().await.clone();
        if let Some(value) = &known {
            ask.private.insert(header::AUTHORIZATION, value.clone());
        }
        let answer = endpoint.transport.send(&ask).await?;
        if answer.status().is_success() {
            return Ok(answer);
        }
        if answer.status() == StatusCode::UNAUTHORIZED
            && let Some(value) = self.authorize(endpoint, &answer, known.as_ref()).await?
        {
            ask.private.insert(header::AUTHORIZATION, value);
            let answer = endpoint.transport.send(&ask).await?;
            return match answer.status().is_success() {
                true => Ok(answer),
                false => Err(endpoint.transport.refusal(url, answer).await),
            };
        }
        Err(endpoint.transport.refusal(url, answer).await)
    }

    /// What to answer a challenge with. `None`: nothing that was not tried already.
    async fn authorize(
        &self,
        endpoint: &Endpoint,
        answer: &Response<Incoming>,
        tried: Option<&HeaderValue>,
    ) -> Result<Option<HeaderValue>, RegistryError> {
        let mut authorization = endpoint.authorization.lock().await;
        if authorization.as_ref() != tried {
            // Another request of this pull was let in meanwhile.
            return Ok(authorization.clone());
        }
        if matches!(endpoint.identity, Identity::Bearer(_)) {
            return Ok(None);
        }
        for challenge in auth::challenges(answer.headers()) {
            let value = match (challenge, &endpoint.identity) {
                (Challenge::Basic, Identity::Password(name, password)) => auth::basic(name, password),
                (Challenge::Basic, _) => None,
                (Challenge::Bearer { realm, service, scope }, _) => {
                    let token = self.token(endpoint, &realm, service, scope).await.map_err(|source| {
                        RegistryError::Token {
                            host: endpoint.host.authority.clone(),
                            source: Box::new(source),
                        }
                    })?;
                    auth::bearer(&token)
                }
            };
            // Basic credentials that were refused are refused again; a token may only have run out.
            if value.is_some() && value.as_ref() != tried {
                authorization.clone_from(&value);
                return Ok(value);
            }
        }
        Ok(None)
    }

    async fn token(
        &self,
        endpoint: &Endpoint,
        realm: &str,
        service: Option<String>,
        scope: Option<String>,
    ) -> Result<String, RegistryError> {
        let secret = matches!(endpoint.identity, Identity::Password(..) | Identity::Refresh(_));
        if secret && endpoint.host.base.starts_with("https:") && !realm.starts_with("https:") {
            return Err(protocol(
                realm,
                "is no place to send credentials to: the registry is https, this is not",
            ));
        }
        let scope = scope.unwrap_or_else(|| format!("repository:{}:pull", self.reference.path()));
        let mut form = vec![("scope", scope)];
        form.extend(service.map(|service| ("service", service)));
        let encode = |form: &[(&str, String)]| {
            let pairs: Vec<_> =
                form.iter().map(|(key, value)| format!("{key}={}", auth::escape(value))).collect();
            pairs.join("&")
        };
        let mut ask = match &endpoint.identity {
            Identity::Refresh(token) => {
                form.push(("grant_type", "refresh_token".to_owned()));
                form.push(("client_id", "gantline".to_owned()));
                form.push(("refresh_token", token.clone()));
                let kind = HeaderValue::from_static("application/x-www-form-urlencoded");
                let private = HeaderMap::from_iter([(header::CONTENT_TYPE, kind)]);
                Ask { method: Method::POST, body: encode(&form).into(), private, ..Ask::get(realm) }
            }
            _ => {
                let separator = if realm.contains('?') { '&' } else { '?' };
                Ask::get(format!("{realm}{separator}{}", encode(&form)))
            }
        };
        if let Identity::Password(name, password) = &endpoint.identity {
            ask.private.extend(auth::basic(name, password).map(|value| (header::AUTHORIZATION, value)));
        }
        let answer = endpoint.transport.send(&ask).await?;
        if !answer.status().is_success() {
            return Err(endpoint.transport.refusal(&ask.url, answer).await);
        }
        let body = endpoint.transport.read(&ask.url, answer, TOKEN_BYTES_MAX).await?;
        let answer: Option<auth::TokenAnswer> = serde_json::from_slice(&body).ok();
        answer.and_then(auth::TokenAnswer::token).ok_or_else(|| protocol(realm, "answers without a token"))
    }
}

/// How often a request may still be tried, and how long to wait before.
struct Attempts {
    left: u32,
    pause: Duration,
}
