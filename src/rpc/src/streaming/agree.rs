//! What a client's request for an upgrade comes to: a framing, a protocol, and the answer that says so.

use hyper::body::Bytes;
use hyper::header::{
    CONNECTION, HeaderMap, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
    SEC_WEBSOCKET_VERSION, UPGRADE,
};
use hyper::{Response, StatusCode};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::Task;
use super::remote::Version;
use super::websocket::Coding;

/// The header in which SPDY clients and servers agree on a protocol.
const PROTOCOL: &str = "x-stream-protocol-version";
const SPDY: &str = "SPDY/3.1";
/// The one version of the WebSocket protocol (RFC 6455, 4.1).
const WEBSOCKET_VERSION: &str = "13";
/// Pairs of channels that one byte can number.
const FORWARDED_PORTS_MAX: usize = 128;

/// The remote command protocol over SPDY. The versions differ in what the error channel says, and in
/// whether terminals have sizes.
const REMOTE_SPDY: [(&str, Version); 4] = [
    ("v4.channel.k8s.io", Version { json: true, sizes: true }),
    ("v3.channel.k8s.io", Version { json: false, sizes: true }),
    ("v2.channel.k8s.io", Version { json: false, sizes: false }),
    ("channel.k8s.io", Version { json: false, sizes: false }),
];
/// The same over WebSocket, where every version has a channel for sizes.
const REMOTE_WEBSOCKET: [(&str, Coding, Version); 7] = [
    ("v5.channel.k8s.io", Coding::Binary, Version { json: true, sizes: true }),
    ("v4.channel.k8s.io", Coding::Binary, Version { json: true, sizes: true }),
    ("v4.base64.channel.k8s.io", Coding::Base64, Version { json: true, sizes: true }),
    ("v3.channel.k8s.io", Coding::Binary, Version { json: false, sizes: true }),
    ("v2.channel.k8s.io", Coding::Binary, Version { json: false, sizes: true }),
    ("channel.k8s.io", Coding::Binary, Version { json: false, sizes: true }),
    ("base64.channel.k8s.io", Coding::Base64, Version { json: false, sizes: true }),
];
const FORWARD_SPDY: &str = "portforward.k8s.io";
/// All of SPDY in the messages of a WebSocket.
const FORWARD_TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";
const FORWARD_WEBSOCKET: [(&str, Coding); 2] =
    [("v4.channel.k8s.io", Coding::Binary), ("v4.base64.channel.k8s.io", Coding::Base64)];

/// An answer to a client.
pub(super) type Answer = Response<http_body_util::Full<Bytes>>;

/// How a connection goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// SPDY; the version is the remote command protocol's.
    Spdy(Version),
    /// A byte before each message is its channel's number.
    WebSocket(Coding, Version),
    /// SPDY in WebSocket.
    Tunnel,
}

/// What was agreed: a framing, the protocol's name as the client wrote it (empty: it named none).
type Agreed = (Framing, &'static str);

/// Why not.
type Refusal = (StatusCode, String);

/// Framing and protocol, and the answer that says so; else the answer that says why not.
pub(super) fn agree(headers: &HeaderMap, task: &Task) -> Result<(Framing, Answer), Box<Answer>> {
    let upgrade = words(headers, UPGRADE.as_str());
    let wants = |name: &str| upgrade.iter().any(|word| word.eq_ignore_ascii_case(name));
    let agreed = if wants("websocket") {
        websocket(headers, task)
    } else if wants(SPDY) {
        spdy(headers, task)
    } else {
        Err((StatusCode::BAD_REQUEST, format!("an upgrade to {SPDY} or websocket is expected")))
    };
    agreed.map_err(|(code, why)| Box::new(refuse(code, &why)))
}

fn spdy(headers: &HeaderMap, task: &Task) -> Result<(Framing, Answer), Refusal> {
    let forward = [(FORWARD_SPDY, Version::default())];
    let known: &[(&'static str, Version)] = match task {
        Task::PortForward { .. } => &forward,
        Task::Exec { .. } | Task::Attach { .. } => &REMOTE_SPDY,
    };
    let offers = words(headers, PROTOCOL);
    // A client that offers nothing speaks the first version.
    let agreed = match offers.is_empty() {
        true => known.last(),
        false => offers.iter().find_map(|offer| known.iter().find(|(name, _)| name == offer)),
    };
    let Some((name, version)) = agreed else {
        return Err((StatusCode::FORBIDDEN, unknown(known.iter().map(|(name, _)| *name))));
    };
    let mut response = switching(SPDY);
    response.headers_mut().insert(PROTOCOL, HeaderValue::from_static(name));
    Ok((Framing::Spdy(*version), response))
}

fn websocket(headers: &HeaderMap, task: &Task) -> Result<(Framing, Answer), Refusal> {
    let bad = |why: &str| (StatusCode::BAD_REQUEST, why.to_owned());
    let key = headers.get(SEC_WEBSOCKET_KEY).ok_or_else(|| bad("a WebSocket without Sec-WebSocket-Key"))?;
    if headers.get(SEC_WEBSOCKET_VERSION).is_none_or(|version| version != WEBSOCKET_VERSION) {
        return Err(bad("a WebSocket of another version than 13"));
    }
    let offers = words(headers, SEC_WEBSOCKET_PROTOCOL.as_str());
    let (framing, name) = match task {
        Task::Exec { .. } | Task::Attach { .. } => remote_protocol(&offers),
        Task::PortForward { ports, .. } => forward_protocol(&offers, ports),
    }?;
    let mut response = switching("websocket");
    if let Ok(accept) = derive_accept_key(key.as_bytes()).parse() {
        response.headers_mut().insert(SEC_WEBSOCKET_ACCEPT, accept);
    }
    if !name.is_empty() {
        response.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(name));
    }
    Ok((framing, response))
}

/// The first of the client's offers that is known here.
fn remote_protocol(offers: &[String]) -> Result<Agreed, Refusal> {
    if offers.is_empty() {
        return Ok((Framing::WebSocket(Coding::Binary, Version { json: false, sizes: true }), ""));
    }
    let known = |offer: &String| REMOTE_WEBSOCKET.iter().find(|(name, ..)| name == offer);
    match offers.iter().find_map(known) {
        Some((name, coding, version)) => Ok((Framing::WebSocket(*coding, *version), name)),
        None => Err((StatusCode::BAD_REQUEST, unknown(REMOTE_WEBSOCKET.iter().map(|(name, ..)| *name)))),
    }
}

fn forward_protocol(offers: &[String], ports: &[u16]) -> Result<Agreed, Refusal> {
    let by_number = |coding, name| {
        if ports.is_empty() || ports.len() > FORWARDED_PORTS_MAX {
            let why = format!(
                "this protocol has a pair of channels for each port of the CRI request, which named {}; \
                 {FORWARD_TUNNEL} names them later",
                ports.len()
            );
            return Err((StatusCode::BAD_REQUEST, why));
        }
        Ok((Framing::WebSocket(coding, Version::default()), name))
    };
    if offers.is_empty() {
        return by_number(Coding::Binary, "");
    }
    for offer in offers {
        if offer == FORWARD_TUNNEL {
            return Ok((Framing::Tunnel, FORWARD_TUNNEL));
        }
        if let Some((name, coding)) = FORWARD_WEBSOCKET.iter().find(|(name, _)| name == offer) {
            return by_number(*coding, name);
        }
    }
    let known = FORWARD_WEBSOCKET.iter().map(|(name, _)| *name);
    Err((StatusCode::BAD_REQUEST, unknown(std::iter::once(FORWARD_TUNNEL).chain(known))))
}

fn unknown<'a>(known: impl Iterator<Item = &'a str>) -> String {
    format!("no known protocol among those offered; known are {}", known.collect::<Vec<_>>().join(", "))
}

/// The words of a header that may come several times, and hold several each.
fn words(headers: &HeaderMap, name: &str) -> Vec<String> {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values
        .flat_map(|value| value.split(','))
        .map(|word| word.trim().to_owned())
        .filter(|w| !w.is_empty())
        .collect()
}

fn switching(protocol: &'static str) -> Answer {
    let mut response = Response::new(http_body_util::Full::default());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    response.headers_mut().insert(UPGRADE, HeaderValue::from_static(protocol));
    response
}

/// An answer that says why not.
pub(super) fn refuse(code: StatusCode, why: &str) -> Answer {
    let mut response = Response::new(http_body_util::Full::from(format!("{why}\n")));
    *response.status_mut() = code;
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(task: &Task, headers: &[(&'static str, &'static str)]) -> Result<(Framing, String), u16> {
        let pairs =
            headers.iter().map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value)));
        let headers: HeaderMap = pairs.collect();
        let text = |answer: &Answer, name: &str| {
            answer.headers().get(name).map_or("", |value| value.to_str().unwrap()).to_owned()
        };
        match agree(&headers, task) {
            Ok((framing, answer)) => {
                assert_eq!(answer.status(), 101);
                Ok((framing, text(&answer, PROTOCOL) + &text(&answer, "sec-websocket-protocol")))
            }
            Err(refusal) => Err(refusal.status().as_u16()),
        }
    }

    #[test]
    fn the_first_known_offer_counts() {
        let exec =
            Task::Exec { container: "c".into(), command: vec!["x".into()], wanted: Default::default() };
        let forward = |ports: &[u16]| Task::PortForward { pod: "p".into(), ports: ports.to_vec() };
        let (v1, v2) = (Version { json: false, sizes: true }, Version::default());
        let json = Version { json: true, sizes: true };
        let binary = |version| Framing::WebSocket(Coding::Binary, version);
        let base64 = |version| Framing::WebSocket(Coding::Base64, version);
        type Case = (Task, &'static str, &'static str, Result<(Framing, &'static str), u16>);
        let cases: Vec<Case> = vec![
            (
                exec.clone(),
                "SPDY/3.1",
                "v5.channel.k8s.io,v4.channel.k8s.io",
                Ok((Framing::Spdy(json), "v4.channel.k8s.io")),
            ),
            (exec.clone(), "spdy/3.1", "v2.channel.k8s.io", Ok((Framing::Spdy(v2), "v2.channel.k8s.io"))),
            (exec.clone(), "SPDY/3.1", "", Ok((Framing::Spdy(v2), "channel.k8s.io"))),
            (exec.clone(), "SPDY/3.1", "portforward.k8s.io", Err(403)),
            (exec.clone(), "h2c", "", Err(400)),
            (
                exec.clone(),
                "websocket",
                "v5.channel.k8s.io, v4.channel.k8s.io",
                Ok((binary(json), "v5.channel.k8s.io")),
            ),
            (
                exec.clone(),
                "websocket",
                "v9.channel.k8s.io,channel.k8s.io",
                Ok((binary(v1), "channel.k8s.io")),
            ),
            (
                exec.clone(),
                "websocket",
                "v3.channel.k8s.io,v2.channel.k8s.io",
                Ok((binary(v1), "v3.channel.k8s.io")),
            ),
            (exec.clone(), "websocket", "v2.channel.k8s.io", Ok((binary(v1), "v2.channel.k8s.io"))),
            (exec.clone(), "websocket", "base64.channel.k8s.io", Ok((base64(v1), "base64.channel.k8s.io"))),
            (
                exec.clone(),
                "websocket",
                "v4.base64.channel.k8s.io",
                Ok((base64(json), "v4.base64.channel.k8s.io")),
            ),
            (exec.clone(), "websocket", "", Ok((binary(v1), ""))),
            (exec.clone(), "websocket", "SPDY/3.1+portforward.k8s.io", Err(400)),
            (forward(&[]), "SPDY/3.1", "portforward.k8s.io", Ok((Framing::Spdy(v2), "portforward.k8s.io"))),
            (forward(&[]), "SPDY/3.1", "v4.channel.k8s.io", Err(403)),
            (forward(&[]), "websocket", "SPDY/3.1+portforward.k8s.io", Ok((Framing::Tunnel, FORWARD_TUNNEL))),
            (
                forward(&[80]),
                "websocket",
                "v4.base64.channel.k8s.io",
                Ok((base64(v2), "v4.base64.channel.k8s.io")),
            ),
            (forward(&[80]), "websocket", "", Ok((binary(v2), ""))),
            (forward(&[]), "websocket", "v4.channel.k8s.io", Err(400)),
        ];
        for (task, upgrade, offers, expected) in cases {
            let header = if upgrade == "websocket" { "sec-websocket-protocol" } else { PROTOCOL };
            let mut headers = vec![
                ("upgrade", upgrade),
                ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
                ("sec-websocket-version", "13"),
            ];
            if !offers.is_empty() {
                headers.push((header, offers));
            }
            let expected = expected.map(|(framing, name)| (framing, name.to_owned()));
            assert_eq!(asked(&task, &headers), expected, "{upgrade} {offers}");
        }
        assert_eq!(asked(&exec, &[("upgrade", "websocket"), ("sec-websocket-version", "13")]), Err(400));
        let old = [("upgrade", "websocket"), ("sec-websocket-key", "x"), ("sec-websocket-version", "8")];
        assert_eq!(asked(&exec, &old), Err(400));
    }
}
