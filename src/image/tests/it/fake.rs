//! A registry in this process that misbehaves as told and remembers what it was asked.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;

use crate::build::{Built, digest};

type Body = BoxBody<Bytes, std::io::Error>;

/// How clients are let in.
#[derive(Clone, Default, PartialEq)]
pub(crate) enum Door {
    #[default]
    Open,
    /// `user:password`.
    Basic(String),
    /// A token that `/token` sells for `user:password`, or for the refresh token `refresh`.
    Bearer(String),
}

#[derive(Default)]
pub(crate) struct State {
    pub(crate) manifests: HashMap<String, (String, Bytes)>,
    pub(crate) blobs: HashMap<String, Bytes>,
    pub(crate) door: Door,
    /// Blob answers break off after so many bytes, so many times.
    pub(crate) cut: Option<(usize, usize)>,
    /// Ranges are not understood.
    pub(crate) no_ranges: bool,
    /// The next requests are answered so.
    pub(crate) statuses: Vec<StatusCode>,
    /// Blobs are elsewhere.
    pub(crate) redirect: Option<String>,
    /// Before each blob answer.
    pub(crate) delay: Duration,
    /// Blob answers never end.
    pub(crate) hang: bool,
    pub(crate) seen: Vec<Seen>,
}

pub(crate) struct Seen {
    pub(crate) path: String,
    pub(crate) query: String,
    pub(crate) headers: HeaderMap,
}

#[derive(Clone)]
pub(crate) struct Registry {
    state: Arc<Mutex<State>>,
    address: SocketAddr,
}

impl Registry {
    pub(crate) async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let registry = Self { state: Arc::default(), address };
        let served = registry.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let registry = served.clone();
                tokio::spawn(async move {
                    let service = service_fn(move |request| {
                        let registry = registry.clone();
                        async move { Ok::<_, Infallible>(registry.answer(request).await) }
                    });
                    let server = hyper::server::conn::http1::Builder::new();
                    let _ = server.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        registry
    }

    pub(crate) fn host(&self) -> String {
        self.address.to_string()
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Puts an image under `repository:tag`, and gives back the reference to pull.
    pub(crate) fn put(&self, name: &str, built: &Built) -> String {
        let (repository, tag) = name.rsplit_once(':').unwrap();
        let mut state = self.state();
        let manifest = Bytes::from(built.manifest.clone());
        for reference in [tag.to_owned(), digest(&manifest)] {
            let entry = (built.media_type.to_owned(), manifest.clone());
            state.manifests.insert(format!("{repository}/manifests/{reference}"), entry);
        }
        for blob in built.blobs.iter().chain([&built.config]) {
            state.blobs.insert(digest(blob), blob.clone().into());
        }
        format!("{}/{name}", self.host())
    }

    /// How often paths with this text were asked for.
    pub(crate) fn asked(&self, text: &str) -> usize {
        self.state().seen.iter().filter(|seen| seen.path.contains(text)).count()
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        let path = parts.uri.path().to_owned();
        let query = parts.uri.query().unwrap_or_default().to_owned();
        let seen = Seen { path: path.clone(), query: query.clone(), headers: parts.headers.clone() };
        let door = {
            let mut state = self.state();
            state.seen.push(seen);
            if path != "/token" && !state.statuses.is_empty() {
                return say(state.statuses.remove(0), r#"{"errors":[{"code":"X","message":"as told"}]}"#);
            }
            state.door.clone()
        };
        let authorization =
            parts.headers.get("authorization").and_then(|v| v.to_str().ok()).unwrap_or_default();
        let basic = |pair: &str| {
            use base64::Engine as _;
            format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair))
        };
        if path == "/token" {
            let Door::Bearer(pair) = &door else { return say(StatusCode::NOT_FOUND, "") };
            let bought =
                authorization == basic(pair) || body.windows(21).any(|w| w == b"refresh_token=refresh");
            return match bought && (query.contains("scope=") || !body.is_empty()) {
                true => say(StatusCode::OK, r#"{"token":"ticket"}"#),
                false => say(StatusCode::UNAUTHORIZED, r#"{"details":"incorrect username or password"}"#),
            };
        }
        let (let_in, challenge) = match &door {
            Door::Open => (true, String::new()),
            Door::Basic(pair) => (authorization == basic(pair), "Basic realm=\"fake\"".to_owned()),
            Door::Bearer(_) => (
                authorization == "Bearer ticket",
                format!("Bearer realm=\"http://{}/token\",service=\"fake\"", self.host()),
            ),
        };
        if !let_in {
            let mut refusal =
                say(StatusCode::UNAUTHORIZED, r#"{"errors":[{"code":"UNAUTHORIZED","message":"who?"}]}"#);
            refusal.headers_mut().insert("www-authenticate", challenge.parse().unwrap());
            return refusal;
        }
        let path = path.trim_start_matches("/v2/");
        if let Some((media_type, bytes)) = self.state().manifests.get(path) {
            let answer = Response::builder().header("content-type", media_type);
            return answer.body(whole(bytes.clone())).unwrap();
        }
        let Some(blob) = path.rsplit_once("/blobs/").and_then(|(_, d)| self.state().blobs.get(d).cloned())
        else {
            return say(
                StatusCode::NOT_FOUND,
                r#"{"errors":[{"code":"NAME_UNKNOWN","message":"no such thing"}]}"#,
            );
        };
        self.blob(path, blob, &parts.headers).await
    }

    async fn blob(&self, path: &str, blob: Bytes, headers: &HeaderMap) -> Response<Body> {
        let (delay, hang, redirect, no_ranges) = {
            let state = self.state();
            (state.delay, state.hang, state.redirect.clone(), state.no_ranges)
        };
        tokio::time::sleep(delay).await;
        if let Some(target) = redirect {
            let location = format!("{target}/v2/{path}?signature=secret");
            return Response::builder()
                .status(307)
                .header("location", location)
                .body(whole(Bytes::new()))
                .unwrap();
        }
        let range = headers.get("range").and_then(|v| v.to_str().ok()).filter(|_| !no_ranges);
        let from: Option<usize> =
            range.and_then(|r| r.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
        let (status, rest) = match from {
            Some(from) => (206, blob.slice(from..)),
            None => (200, blob.clone()),
        };
        let mut answer = Response::builder().status(status).header("content-length", rest.len());
        if let Some(from) = from {
            answer =
                answer.header("content-range", format!("bytes {from}-{}/{}", blob.len() - 1, blob.len()));
        }
        let cut = {
            let mut state = self.state();
            let small = rest.len() < 2000;
            match &mut state.cut {
                Some((at, times)) if *times > 0 && !small => {
                    *times -= 1;
                    Some((*at).min(rest.len()))
                }
                _ => None,
            }
        };
        let body = match (cut, hang) {
            (Some(at), _) => {
                let broken = std::io::Error::other("as told");
                let frames = [Ok(Frame::data(rest.slice(..at))), Err(broken)];
                // A pause, so that the bytes before the break are sent.
                let frames = stream::unfold(frames.into_iter(), async |mut frames| {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                    Some((frames.next()?, frames))
                });
                BodyExt::boxed(StreamBody::new(Box::pin(Shared(Mutex::new(Box::pin(frames))))))
            }
            (None, true) if blob.len() >= 2000 => {
                let first = Ok(Frame::data(rest.slice(..rest.len() / 2)));
                let frames = stream::unfold(Some(first), async |first| match first {
                    Some(first) => Some((first, None)),
                    None => std::future::pending().await,
                });
                BodyExt::boxed(StreamBody::new(Box::pin(Shared(Mutex::new(Box::pin(frames))))))
            }
            (None, _) => whole(rest),
        };
        answer.body(body).unwrap()
    }
}

type Frames = std::pin::Pin<Box<dyn stream::Stream<Item = Result<Frame<Bytes>, std::io::Error>> + Send>>;

/// A stream that may be shared between threads, as boxed bodies want it.
struct Shared(Mutex<Frames>);

impl stream::Stream for Shared {
    type Item = Result<Frame<Bytes>, std::io::Error>;

    fn poll_next(
        self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        self.0.lock().unwrap().as_mut().poll_next(context)
    }
}

fn whole(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(|never| match never {}).boxed()
}

fn say(status: StatusCode, text: &str) -> Response<Body> {
    Response::builder().status(status).body(whole(Bytes::copy_from_slice(text.as_bytes()))).unwrap()
}
