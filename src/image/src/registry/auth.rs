//! Being let in: challenges of RFC 9110 §11, basic and bearer, and the token exchange of the distribution
//! project (distribution, docs/spec/auth/token.md and oauth.md).

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use http::{HeaderMap, HeaderValue, header};
use serde::Deserialize;

use super::hosts::Host;
use crate::credentials::Credentials;

/// Who we are to one registry, in the form that it can be used.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) enum Identity {
    #[default]
    Anonymous,
    /// Name and password: for basic authentication, or to buy a token with.
    Password(String, String),
    /// To buy a token with.
    Refresh(String),
    /// A token that is sent as it is.
    Bearer(String),
}

/// A challenge that we can answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Challenge {
    Basic,
    Bearer { realm: String, service: Option<String>, scope: Option<String> },
}

/// What a token server answers; old ones say `token`, OAuth2's `access_token`.
#[derive(Deserialize)]
pub(super) struct TokenAnswer {
    token: Option<String>,
    access_token: Option<String>,
}

impl TokenAnswer {
    pub(super) fn token(self) -> Option<String> {
        self.token.filter(|token| !token.is_empty()).or(self.access_token).filter(|token| !token.is_empty())
    }
}

impl Identity {
    /// What these credentials are to `host`, which is asked for images of `domain`.
    ///
    /// They are for the image's own registry unless they name another; a mirror never gets what was not
    /// given for it.
    pub(crate) fn new(credentials: Option<&Credentials>, host: &Host, domain: &str) -> Self {
        let Some(credentials) = credentials else { return Self::Anonymous };
        let wanted = match credentials.server_address.as_str() {
            "" => domain.to_owned(),
            address => host_of(address),
        };
        let is_own = host.server && canonical(&wanted) == canonical(domain);
        if !is_own && canonical(&wanted) != canonical(&host.authority) {
            return Self::Anonymous;
        }
        if !credentials.registry_token.is_empty() {
            return Self::Bearer(credentials.registry_token.clone());
        }
        if !credentials.username.is_empty() {
            return Self::Password(credentials.username.clone(), credentials.password.clone());
        }
        if !credentials.identity_token.is_empty() {
            return Self::Refresh(credentials.identity_token.clone());
        }
        match decode(&credentials.auth) {
            Some((name, password)) => Self::Password(name, password),
            None => Self::Anonymous,
        }
    }
}

/// Docker Hub has three names.
fn canonical(host: &str) -> &str {
    match host {
        "index.docker.io" | "registry-1.docker.io" => "docker.io",
        host => host,
    }
}

/// `https://index.docker.io/v1/` names a host too.
fn host_of(address: &str) -> String {
    let rest = address.split_once("://").map_or(address, |(_, rest)| rest);
    rest.split('/').next().unwrap_or_default().to_owned()
}

/// Base64 of `name:password`; some clients pad the decoded text with NULs.
fn decode(auth: &str) -> Option<(String, String)> {
    let auth = auth.trim();
    let bytes = STANDARD.decode(auth).or_else(|_| STANDARD_NO_PAD.decode(auth)).ok()?;
    let text = String::from_utf8(bytes).ok()?;
    let (name, password) = text.split_once(':')?;
    Some((name.to_owned(), password.trim_matches('\0').to_owned()))
}

/// The value of an Authorization header; `None` where the secret cannot be sent in one.
pub(super) fn basic(name: &str, password: &str) -> Option<HeaderValue> {
    sensitive(format!("Basic {}", STANDARD.encode(format!("{name}:{password}"))))
}

/// The value of an Authorization header; `None` where the secret cannot be sent in one.
pub(super) fn bearer(token: &str) -> Option<HeaderValue> {
    sensitive(format!("Bearer {token}"))
}

fn sensitive(text: String) -> Option<HeaderValue> {
    let mut value = HeaderValue::try_from(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// The challenges of an answer that we can meet, bearer first.
pub(super) fn challenges(headers: &HeaderMap) -> Vec<Challenge> {
    let values = headers.get_all(header::WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok());
    let mut found: Vec<_> = values.flat_map(parse).collect();
    found.sort_by_key(|challenge| matches!(challenge, Challenge::Basic));
    found
}

fn parse(text: &str) -> Vec<Challenge> {
    let mut found = Vec::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let end = rest.find([' ', ',', '=']).unwrap_or(rest.len());
        if end == 0 {
            return found;
        }
        let scheme = &rest[..end];
        rest = &rest[end..];
        let mut parameters = Vec::new();
        while let Some((key, value, after)) = parameter(rest) {
            parameters.push((key.to_ascii_lowercase(), value));
            rest = after;
        }
        let mut take = |wanted: &str| {
            let at = parameters.iter().position(|(key, _)| key == wanted)?;
            Some(parameters.swap_remove(at).1)
        };
        if scheme.eq_ignore_ascii_case("basic") {
            found.push(Challenge::Basic);
        } else if scheme.eq_ignore_ascii_case("bearer")
            && let Some(realm) = take("realm")
        {
            found.push(Challenge::Bearer { realm, service: take("service"), scope: take("scope") });
        }
    }
}

/// `key=value` or `key="value"` at the head of the text, and what follows; a scheme is not one.
fn parameter(text: &str) -> Option<(&str, String, &str)> {
    let text = text.trim_start_matches([' ', '\t', ',']);
    let (key, rest) = text.split_once('=')?;
    let key = key.trim_end();
    if key.is_empty() || !key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-') {
        return None;
    }
    let rest = rest.trim_start();
    let Some(quoted) = rest.strip_prefix('"') else {
        let end = rest.find([',', ' ']).unwrap_or(rest.len());
        return Some((key, rest[..end].to_owned(), &rest[end..]));
    };
    let mut value = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, character)) = chars.next() {
        match character {
            '"' => return Some((key, value, &quoted[at + 1..])),
            '\\' => value.extend(chars.next().map(|(_, escaped)| escaped)),
            _ => value.push(character),
        }
    }
    None
}

/// Text as a part of a URL's query or of a form.
pub(super) fn escape(text: &str) -> String {
    text.bytes().fold(String::new(), |mut out, byte| {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(char::from(byte)),
            _ => out += &format!("%{byte:02X}"),
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(authority: &str, server: bool) -> Host {
        let mut hosts = super::super::hosts::hosts_for(authority, &[]).unwrap();
        Host { server, ..hosts.remove(0) }
    }

    fn bearer_challenge(realm: &str, service: Option<&str>, scope: Option<&str>) -> Challenge {
        Challenge::Bearer {
            realm: realm.into(),
            service: service.map(Into::into),
            scope: scope.map(Into::into),
        }
    }

    #[test]
    fn challenges_are_read_in_all_their_forms() {
        for (text, expected) in [
            (
                r#"Bearer realm="https://auth/token",service="reg",scope="repository:a/b:pull,push""#,
                vec![bearer_challenge("https://auth/token", Some("reg"), Some("repository:a/b:pull,push"))],
            ),
            (r#"bearer  Realm = "r\"x" , scope=s"#, vec![bearer_challenge("r\"x", None, Some("s"))]),
            (r#"Basic realm="a, b=c""#, vec![Challenge::Basic]),
            ("Basic", vec![Challenge::Basic]),
            (
                r#"Negotiate, Basic realm="x", Bearer realm="y""#,
                vec![Challenge::Basic, bearer_challenge("y", None, None)],
            ),
            (r#"Bearer service="no realm""#, vec![]),
            (r#"Bearer realm="unclosed"#, vec![]),
            ("", vec![]),
            (",,,", vec![]),
            ("===", vec![]),
        ] {
            assert_eq!(parse(text), expected, "{text}");
        }
    }

    #[test]
    fn each_field_of_the_credentials_counts_and_only_for_its_host() {
        let password = |name: &str, word: &str| Identity::Password(name.into(), word.into());
        let of = |set: fn(&mut Credentials)| {
            let mut credentials = Credentials::default();
            set(&mut credentials);
            Identity::new(Some(&credentials), &host("reg.example", true), "reg.example")
        };
        let is = |found: Identity, wanted: Identity| assert!(found == wanted);
        is(of(|c| (c.username, c.password) = ("u".into(), "p".into())), password("u", "p"));
        is(of(|c| c.auth = STANDARD.encode("u:p:q\0\0")), password("u", "p:q"));
        is(of(|c| c.auth = "!".into()), Identity::Anonymous);
        is(of(|c| c.identity_token = "t".into()), Identity::Refresh("t".into()));
        is(of(|c| c.registry_token = "t".into()), Identity::Bearer("t".into()));
        for (address, let_in) in [
            ("", true),
            ("reg.example", true),
            ("https://reg.example/v2/", true),
            ("http://reg.example", true),
            ("other.example", false),
            ("reg.example:5000", false),
            ("reg.example.evil", false),
        ] {
            let credentials = Credentials {
                username: "u".into(),
                password: "p".into(),
                server_address: address.into(),
                ..Default::default()
            };
            let identity = Identity::new(Some(&credentials), &host("reg.example", true), "reg.example");
            assert!((identity == password("u", "p")) == let_in, "{address}");
            let mirror = Identity::new(Some(&credentials), &host("mirror.example", false), "reg.example");
            assert!(mirror == Identity::Anonymous, "a mirror gets nothing: {address}");
        }
        let hub = Credentials {
            username: "u".into(),
            server_address: "https://index.docker.io/v1/".into(),
            ..Default::default()
        };
        assert!(Identity::new(Some(&hub), &host("docker.io", true), "docker.io") == password("u", ""));
        assert!(!format!("{hub:?}").contains('u') || format!("{hub:?}") == "Credentials(redacted)");
    }
}
