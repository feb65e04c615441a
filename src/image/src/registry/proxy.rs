//! `HTTP_PROXY`, `HTTPS_PROXY` and `NO_PROXY`, as Go's programs read them, and with them containerd
//! (golang.org/x/net/http/httpproxy).

use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::{HeaderValue, Uri};

/// Which proxies to use, as a node's environment says it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProxyConfig {
    /// For registries of plain HTTP: `http://[user:password@]host[:port]`.
    pub http: Option<String>,
    /// For registries of HTTPS.
    pub https: Option<String>,
    /// For whom there is no proxy: hosts, `.domains`, addresses, networks (`10.0.0.0/8`), any of them with a port, `*`.
    pub no_proxy: String,
}

impl ProxyConfig {
    /// From this process's environment; names in capitals come before those in small letters.
    pub fn from_environment() -> Self {
        Self::from_variables(|name| std::env::var(name).ok())
    }

    fn from_variables(variable: impl Fn(&str) -> Option<String>) -> Self {
        let either = |name: &str| {
            [name.to_owned(), name.to_ascii_lowercase()].iter().find_map(|name| {
                variable(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
            })
        };
        Self {
            http: either("HTTP_PROXY"),
            https: either("HTTPS_PROXY"),
            no_proxy: either("NO_PROXY").unwrap_or_default(),
        }
    }

    /// The proxy on the way to a URL; an error says which variable is wrong.
    pub(super) fn for_url(&self, url: &Uri) -> Result<Option<Proxy>, String> {
        let Some(host) = url.host() else { return Ok(None) };
        let secure = url.scheme_str() == Some("https");
        let (name, proxy) = if secure { ("HTTPS_PROXY", &self.https) } else { ("HTTP_PROXY", &self.http) };
        let port = url.port_u16().unwrap_or(if secure { 443 } else { 80 });
        match proxy {
            Some(proxy) if !self.spares(host, port) => {
                // The text may hold a password.
                Proxy::parse(proxy).map(Some).map_err(|why| format!("the environment's {name} {why}"))
            }
            _ => Ok(None),
        }
    }

    /// Whether a host is reached without a proxy; loopback always is.
    fn spares(&self, host: &str, port: u16) -> bool {
        let host = host.trim_matches(['[', ']']).trim_end_matches('.').to_ascii_lowercase();
        let address = host.parse::<IpAddr>().ok();
        if host == "localhost" || address.is_some_and(|address| address.is_loopback()) {
            return true;
        }
        let rules = self.no_proxy.split(',').map(|rule| rule.trim().to_ascii_lowercase());
        rules.filter(|rule| !rule.is_empty()).any(|rule| spared_by(&rule, &host, address, port))
    }
}

fn spared_by(rule: &str, host: &str, address: Option<IpAddr>, port: u16) -> bool {
    if rule == "*" {
        return true;
    }
    if let Some((network, bits)) = rule.split_once('/') {
        let parsed = network.parse().ok().zip(bits.parse().ok());
        return address.zip(parsed).is_some_and(|(address, (network, bits))| within(address, network, bits));
    }
    let (rule, rule_port) = with_port(rule);
    if rule_port.is_some_and(|wanted| wanted != port) {
        return false;
    }
    if let Ok(wanted) = rule.parse::<IpAddr>() {
        return address == Some(wanted);
    }
    // `.example.org` and `*.example.org` are what lies below it, `example.org` is that and itself.
    let (below, itself) = match rule.strip_prefix("*.").or_else(|| rule.strip_prefix('.')) {
        Some(domain) => (domain, false),
        None => (rule, true),
    };
    (itself && host == below) || host.strip_suffix(below).is_some_and(|rest| rest.ends_with('.'))
}

/// `host:port`, `[address]:port`; an address of many colons has none.
fn with_port(rule: &str) -> (&str, Option<u16>) {
    if rule.parse::<IpAddr>().is_ok() {
        return (rule, None);
    }
    let (host, port) = match rule.rsplit_once(':') {
        Some((host, port)) => (host, port.parse().ok()),
        None => (rule, None),
    };
    (host.trim_matches(['[', ']']), port)
}

fn within(address: IpAddr, network: IpAddr, bits: u32) -> bool {
    let (address, network, width) = match (address, network) {
        (IpAddr::V4(a), IpAddr::V4(n)) => (u128::from(u32::from(a)), u128::from(u32::from(n)), 32),
        (IpAddr::V6(a), IpAddr::V6(n)) => (u128::from(a), u128::from(n), 128),
        _ => return false,
    };
    // A shift by the whole width is no shift.
    let outside = |value: u128| value.checked_shr(width - bits.min(width)).unwrap_or(0);
    bits <= width && outside(address) == outside(network)
}

/// A proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Proxy {
    /// Where it is.
    pub(super) uri: Uri,
    /// The Proxy-Authorization header that it wants.
    pub(super) authorization: Option<HeaderValue>,
}

impl Proxy {
    fn parse(text: &str) -> Result<Self, &'static str> {
        let with_scheme = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
        let uri: Uri = with_scheme.parse().map_err(|_| "is not a URL")?;
        if uri.scheme_str() != Some("http") {
            return Err("is not a proxy that is spoken to in plain HTTP, which is the only kind known here");
        }
        let authority = uri.authority().ok_or("names no host")?;
        let (user, place) =
            authority.as_str().rsplit_once('@').map_or((None, authority.as_str()), |(u, p)| (Some(u), p));
        let uri: Uri = match authority.port_u16() {
            Some(_) => format!("http://{place}"),
            None => format!("http://{place}:80"),
        }
        .parse()
        .map_err(|_| "is not a URL")?;
        let authorization = user.map(|user| {
            let user = if user.contains(':') { unescape(user) } else { unescape(user) + ":" };
            let value = HeaderValue::try_from(format!("Basic {}", BASE64.encode(user)));
            value.map(|mut value| {
                value.set_sensitive(true);
                value
            })
        });
        Ok(Self { uri, authorization: authorization.transpose().map_err(|_| "has a user that is no text")? })
    }
}

/// `%40` is `@` (RFC 3986, 2.1).
fn unescape(text: &str) -> String {
    let mut parts = text.split('%');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        match part.get(..2).and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                bytes.extend_from_slice(&part.as_bytes()[2..]);
            }
            None => {
                bytes.push(b'%');
                bytes.extend_from_slice(part.as_bytes());
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_is_read_as_go_reads_it() {
        let config = ProxyConfig::from_variables(|name| {
            let value = match name {
                "HTTP_PROXY" => "one:1",
                "http_proxy" => "two:2",
                "HTTPS_PROXY" => "  ",
                "https_proxy" => "http://three:3",
                _ => return None,
            };
            Some(value.to_owned())
        });
        assert_eq!(config.http.as_deref(), Some("one:1"));
        assert_eq!(config.https.as_deref(), Some("http://three:3"));
        let proxy = |url: &str| config.for_url(&url.parse().unwrap()).unwrap().map(|p| p.uri.to_string());
        assert_eq!(proxy("http://reg.example/v2/").as_deref(), Some("http://one:1/"));
        assert_eq!(proxy("https://reg.example/v2/").as_deref(), Some("http://three:3/"));
        assert_eq!(proxy("https://localhost:5000/v2/"), None);
        assert_eq!(proxy("http://127.0.0.9/"), None);
        assert_eq!(proxy("http://[::1]:5000/"), None);
    }

    #[test]
    fn no_proxy_spares_hosts_domains_addresses_and_networks() {
        let spared = |no_proxy: &str, url: &str| {
            let config =
                ProxyConfig { https: Some("p:1".into()), no_proxy: no_proxy.into(), ..Default::default() };
            config.for_url(&url.parse().unwrap()).unwrap().is_none()
        };
        for (no_proxy, url, expected) in [
            ("", "https://a.example/", false),
            ("*", "https://a.example/", true),
            ("a.example", "https://A.example/", true),
            ("example", "https://a.example/", true),
            ("example", "https://an-example/", false),
            (".example", "https://example/", false),
            (".example", "https://a.example/", true),
            ("*.example", "https://b.a.example/", true),
            (" x , a.example:5000", "https://a.example:5000/", true),
            ("a.example:5000", "https://a.example/", false),
            ("a.example:443", "https://a.example/", true),
            ("10.1.2.3", "https://10.1.2.3:5000/", true),
            ("10.1.2.3:443", "https://10.1.2.3:5000/", false),
            ("10.0.0.0/8", "https://10.1.2.3/", true),
            ("10.0.0.0/8", "https://11.1.2.3/", false),
            ("0.0.0.0/0", "https://11.1.2.3/", true),
            ("10.0.0.0/33", "https://10.1.2.3/", false),
            ("fd00::/8", "https://[fd12::1]/", true),
            ("fd12::1", "https://[fd12::1]:5000/", true),
            ("fd00::/8", "https://10.1.2.3/", false),
        ] {
            assert_eq!(spared(no_proxy, url), expected, "{no_proxy} {url}");
        }
    }

    #[test]
    fn a_proxy_has_a_place_and_perhaps_a_user() {
        let proxy = Proxy::parse("http://us%40er:pa%3ass@proxy.example").unwrap();
        assert_eq!(proxy.uri, "http://proxy.example:80/");
        assert_eq!(proxy.authorization.unwrap(), format!("Basic {}", BASE64.encode("us@er:pa:ss")).as_str());
        assert_eq!(Proxy::parse("10.0.0.1:3128").unwrap().uri, "http://10.0.0.1:3128/");
        for wrong in ["socks5://x:1", "https://x:1", "http://", "a b"] {
            assert!(Proxy::parse(wrong).is_err(), "{wrong}");
        }
        let config = ProxyConfig { https: Some("socks5://u:secret@x:1".into()), ..Default::default() };
        let error = config.for_url(&Uri::from_static("https://a.example/")).unwrap_err();
        assert!(error.contains("HTTPS_PROXY") && !error.contains("secret"), "{error}");
    }
}
