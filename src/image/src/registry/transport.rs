//! HTTP and HTTPS to one host: connections, and redirects that leak nothing.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};

use super::connect::Connector;
use super::error::{RegistryError, message};
use super::hosts::Host;
use super::proxy::ProxyConfig;
use super::tls;

const REDIRECTS_MAX: usize = 10;
/// How much of an error's body is read for its message, bytes.
const ERROR_BODY_BYTES_MAX: usize = 16 * 1024;
const IDLE_CONNECTION_MAX: Duration = Duration::from_secs(30);
const USER_AGENT: &str = concat!("gantline/", env!("CARGO_PKG_VERSION"));

/// A way to one host.
#[derive(Clone)]
pub(crate) struct Transport {
    client: Client<HttpsConnector<Connector>, Full<Bytes>>,
    proxies: ProxyConfig,
    stall_max: Duration,
}

/// One request.
#[derive(Clone)]
pub(super) struct Ask {
    pub(super) method: Method,
    pub(super) url: String,
    /// Sent to the host of `url` only, never to where it redirects.
    pub(super) private: HeaderMap,
    /// Sent wherever the request goes.
    pub(super) public: HeaderMap,
    pub(super) body: Bytes,
}

impl Ask {
    pub(super) fn get(url: impl Into<String>) -> Self {
        Self {
            method: Method::GET,
            url: url.into(),
            private: HeaderMap::new(),
            public: HeaderMap::new(),
            body: Bytes::new(),
        }
    }
}

impl Transport {
    /// For this host's certificates and timeouts.
    pub(crate) fn new(host: &Host, proxies: ProxyConfig, stall_max: Duration) -> Result<Self, RegistryError> {
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_connect_timeout(Some(host.dial_timeout));
        http.set_nodelay(true);
        let https = hyper_rustls::HttpsConnectorBuilder::new()
            .with_tls_config(tls::config(&host.tls)?)
            .https_or_http()
            .enable_all_versions()
            .wrap_connector(Connector { http, proxies: proxies.clone() });
        let client = Client::builder(TokioExecutor::new())
            .pool_idle_timeout(IDLE_CONNECTION_MAX)
            .pool_timer(TokioTimer::new())
            .build(https);
        Ok(Self { client, proxies, stall_max })
    }

    /// Sends a request and follows where it leads; any answer that is no redirect is a success here.
    pub(super) async fn send(&self, ask: &Ask) -> Result<Response<Incoming>, RegistryError> {
        let mut url: Uri = ask.url.parse().map_err(|_| protocol(&ask.url, "is not a URL"))?;
        let first = origin(&url);
        for _ in 0..=REDIRECTS_MAX {
            let mut request = Request::builder().method(ask.method.clone()).uri(url.clone());
            if let Some(headers) = request.headers_mut() {
                headers.insert(header::USER_AGENT, header::HeaderValue::from_static(USER_AGENT));
                headers.extend(ask.public.clone());
                if origin(&url) == first {
                    headers.extend(ask.private.clone());
                }
            }
            let shown = shown(&url);
            if url.scheme_str() == Some("http")
                && let Some(proxy) = self.proxies.for_url(&url).map_err(|why| protocol(&shown, &why))?
                && let (Some(value), Some(headers)) = (proxy.authorization, request.headers_mut())
            {
                // A tunnel's is sent when it is made; here each request passes through the proxy.
                headers.insert(header::PROXY_AUTHORIZATION, value);
            }
            let request =
                request.body(Full::new(ask.body.clone())).map_err(|e| protocol(&shown, &e.to_string()))?;
            let answer = tokio::time::timeout(self.stall_max, self.client.request(request)).await;
            let answer = answer
                .map_err(|_| RegistryError::Stalled { url: shown.clone(), after: self.stall_max })?
                .map_err(|error| RegistryError::Unreachable {
                    action: "connect to",
                    url: shown.clone(),
                    source: error.into(),
                })?;
            let target = match answer.status() {
                StatusCode::MOVED_PERMANENTLY
                | StatusCode::FOUND
                | StatusCode::SEE_OTHER
                | StatusCode::TEMPORARY_REDIRECT
                | StatusCode::PERMANENT_REDIRECT => answer.headers().get(header::LOCATION),
                _ => return Ok(answer),
            };
            if ask.method != Method::GET {
                // What is posted is a secret, and not for whoever is pointed at.
                return Err(protocol(&shown, "redirects what was posted to it"));
            }
            let target = target.and_then(|target| target.to_str().ok());
            url = target
                .and_then(|target| resolve(&url, target))
                .ok_or_else(|| protocol(&shown, "redirects to no URL"))?;
        }
        Err(protocol(&ask.url, "redirects in circles"))
    }

    /// A body of at most `max` bytes.
    pub(super) async fn read(
        &self,
        url: &str,
        answer: Response<Incoming>,
        max: usize,
    ) -> Result<Bytes, RegistryError> {
        let body = Limited::new(answer.into_body(), max).collect();
        match tokio::time::timeout(self.stall_max, body).await {
            Err(_) => Err(RegistryError::Stalled { url: url.to_owned(), after: self.stall_max }),
            Ok(Ok(body)) => Ok(body.to_bytes()),
            Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => {
                Err(protocol(url, &format!("is longer than {max} bytes")))
            }
            Ok(Err(source)) => {
                Err(RegistryError::Unreachable { action: "read from", url: url.to_owned(), source })
            }
        }
    }

    /// What an answer that is no success means, in the registry's own words.
    pub(super) async fn refusal(&self, url: &str, answer: Response<Incoming>) -> RegistryError {
        let status = answer.status();
        let retry_after = answer.headers().get(header::RETRY_AFTER).and_then(|value| value.to_str().ok());
        let retry_after = retry_after.and_then(|text| text.trim().parse().ok()).map(Duration::from_secs);
        let body = self.read(url, answer, ERROR_BODY_BYTES_MAX).await.unwrap_or_default();
        let (url, message) = (without_query(url), message(&body));
        match status {
            StatusCode::NOT_FOUND => RegistryError::NotFound { url, message },
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                RegistryError::Denied { url, status, message }
            }
            StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT => {
                RegistryError::Failing { url, status, message, retry_after }
            }
            status if status.is_server_error() => {
                RegistryError::Failing { url, status, message, retry_after }
            }
            status => RegistryError::Unexpected { url, status, message },
        }
    }
}

pub(super) fn protocol(url: &str, why: &str) -> RegistryError {
    RegistryError::Protocol { url: without_query(url), why: why.to_owned() }
}

pub(super) fn without_query(url: &str) -> String {
    url.split('?').next().unwrap_or_default().to_owned()
}

fn shown(url: &Uri) -> String {
    without_query(&url.to_string())
}

/// Scheme, host and port: what private headers are bound to.
fn origin(url: &Uri) -> (Option<String>, Option<String>, Option<u16>) {
    let default = if url.scheme_str() == Some("https") { 443 } else { 80 };
    let host = url.host().map(str::to_ascii_lowercase);
    (url.scheme_str().map(str::to_owned), host, Some(url.port_u16().unwrap_or(default)))
}

/// A Location header against the URL that it came from (RFC 3986 §5, without dot segments).
fn resolve(base: &Uri, location: &str) -> Option<Uri> {
    let location = location.split('#').next().unwrap_or_default();
    let scheme = base.scheme_str()?;
    let authority = base.authority()?;
    let absolute = if location.contains("://") {
        location.to_owned()
    } else if location.starts_with("//") {
        format!("{scheme}:{location}")
    } else if location.starts_with('/') {
        format!("{scheme}://{authority}{location}")
    } else {
        let parent = base.path().rsplit_once('/').map_or("", |(parent, _)| parent);
        format!("{scheme}://{authority}{parent}/{location}")
    };
    let uri: Uri = absolute.parse().ok()?;
    matches!(uri.scheme_str(), Some("http" | "https")).then_some(uri)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations_are_resolved_against_their_page() {
        let base: Uri = "https://reg.example:5000/v2/a/blobs/x?ns=b".parse().unwrap();
        for (location, target) in [
            ("https://cdn.example/x?sig=1#f", Some("https://cdn.example/x?sig=1")),
            ("//cdn.example/x", Some("https://cdn.example/x")),
            ("/blobs/x", Some("https://reg.example:5000/blobs/x")),
            ("y?z", Some("https://reg.example:5000/v2/a/blobs/y?z")),
            ("file:///etc/passwd", None),
            ("ftp://x/y", None),
        ] {
            assert_eq!(resolve(&base, location).map(|uri| uri.to_string()).as_deref(), target, "{location}");
        }
    }

    #[test]
    fn another_scheme_host_or_port_is_another_origin() {
        let of = |url: &str| origin(&url.parse().unwrap());
        assert_eq!(of("https://A.example/x"), of("https://a.example:443/y"));
        for other in ["http://a.example/x", "https://b.example/x", "https://a.example:444/x"] {
            assert_ne!(of("https://a.example/x"), of(other), "{other}");
        }
    }
}
