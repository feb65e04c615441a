//! Connections to a registry's host: straight, to a proxy that passes requests on (HTTP), or through a tunnel that a
//! proxy makes (HTTPS; RFC 9110, 9.3.6).

use std::error::Error;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use http::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tower_service::Service;

use super::proxy::{Proxy, ProxyConfig};

type BoxError = Box<dyn Error + Send + Sync>;

/// Makes them.
#[derive(Clone)]
pub(super) struct Connector {
    pub(super) http: HttpConnector,
    pub(super) proxies: ProxyConfig,
}

impl Service<Uri> for Connector {
    type Response = Way;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Way, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.http.poll_ready(cx).map_err(BoxError::from)
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        let mut http = self.http.clone();
        let proxy = self.proxies.for_url(&to);
        Box::pin(async move {
            let connected = |connection, proxied| Way { connection, proxied };
            match proxy? {
                None => Ok(connected(http.call(to).await?, false)),
                Some(Proxy { uri, authorization }) if to.scheme_str() == Some("https") => {
                    let mut tunnel = Tunnel::new(uri.clone(), http);
                    if let Some(authorization) = authorization {
                        tunnel = tunnel.with_auth(authorization);
                    }
                    let made = tunnel.call(to).await;
                    Ok(connected(made.map_err(|e| format!("the proxy {uri}: {}", chain(&e)))?, false))
                }
                Some(Proxy { uri, .. }) => {
                    let made = http.call(uri.clone()).await;
                    Ok(connected(made.map_err(|e| format!("the proxy {uri}: {}", chain(&e)))?, true))
                }
            }
        })
    }
}

fn chain(error: &dyn Error) -> String {
    model::chain(error)
}

/// A connection, and whether whole URLs are asked for on it: whoever is at its end passes requests on.
pub(super) struct Way {
    connection: TokioIo<TcpStream>,
    proxied: bool,
}

impl Connection for Way {
    fn connected(&self) -> Connected {
        self.connection.connected().proxy(self.proxied)
    }
}

impl Read for Way {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_read(cx, buffer)
    }
}

impl Write for Way {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.connection).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.connection).poll_write_vectored(cx, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.connection.is_write_vectored()
    }
}
