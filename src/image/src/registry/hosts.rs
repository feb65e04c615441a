//! Which hosts to ask for an image: `certs.d/<host>/hosts.toml`, read as containerd reads it
//! (containerd, docs/hosts.md), and the rules for hosts that have none.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Uri};

use super::error::RegistryError;

/// How long a connection may take to be made where the configuration does not say.
const DIAL_TIMEOUT: Duration = Duration::from_secs(30);

/// One host, and how to talk to it.
#[derive(Clone, Debug)]
pub(crate) struct Host {
    /// `https://host[:port]/v2`, without a slash at the end.
    pub(crate) base: String,
    /// `host[:port]`.
    pub(crate) authority: String,
    /// May say which manifest a tag means.
    pub(crate) resolve: bool,
    /// May be asked for manifests by digest and for blobs.
    pub(crate) pull: bool,
    /// Whether it is the image's own registry; a mirror is told whose content is wanted.
    pub(crate) upstream: bool,
    /// Whether the configuration says that it serves the registry's images, as the registry itself does.
    pub(crate) server: bool,
    /// Sent to this host and no other.
    pub(crate) headers: HeaderMap,
    pub(crate) tls: Tls,
    pub(crate) dial_timeout: Duration,
}

/// Whom to trust, and who we are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tls {
    /// PEM files beside the system's roots.
    pub(crate) ca: Vec<PathBuf>,
    /// PEM file of the certificate, and of the key where it is not in the same one.
    pub(crate) client: Vec<(PathBuf, Option<PathBuf>)>,
    pub(crate) skip_verify: bool,
}

/// The hosts for a registry's images, in the order to ask them; the registry itself is the last.
pub(crate) fn hosts_for(domain: &str, config_dirs: &[PathBuf]) -> Result<Vec<Host>, RegistryError> {
    let candidates = directory_names(domain);
    let mut dirs = config_dirs.iter().flat_map(|base| candidates.iter().map(move |name| base.join(name)));
    let Some(dir) = dirs.find(|dir| dir.is_dir()) else { return Ok(vec![upstream(domain)]) };
    let file = dir.join("hosts.toml");
    match fs::read_to_string(&file) {
        Ok(text) => from_toml(domain, &text, &file),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Ok(vec![Host { tls: certificates_in(&dir)?, ..upstream(domain) }])
        }
        Err(error) => Err(RegistryError::Configuration { path: file, why: error.to_string() }),
    }
}

/// Whether pulls from `domain` could be made with a `hosts.toml` of this text; `path` is what errors call it.
///
/// # Errors
/// What is wrong with it.
pub fn check_hosts(domain: &str, text: &str, path: &Path) -> Result<(), RegistryError> {
    from_toml(domain, text, path).map(|_| ())
}

/// A colon is no part of a file's name everywhere, so `host_port_` comes before `host:port`.
fn directory_names(domain: &str) -> Vec<String> {
    let mut names = Vec::new();
    if let Some((host, port)) = domain.rsplit_once(':')
        && !port.contains(']')
    {
        names.push(format!("{host}_{port}_"));
    }
    names.extend([domain.to_owned(), "_default".to_owned()]);
    names
}

/// The registry itself, without any configuration.
fn upstream(domain: &str) -> Host {
    let authority = if domain == "docker.io" { "registry-1.docker.io" } else { domain };
    let scheme = if is_local(authority) { "http" } else { "https" };
    Host {
        base: format!("{scheme}://{authority}/v2"),
        authority: authority.to_owned(),
        resolve: true,
        pull: true,
        upstream: true,
        server: true,
        headers: HeaderMap::new(),
        tls: Tls::default(),
        dial_timeout: DIAL_TIMEOUT,
    }
}

/// Registries on this machine speak plain HTTP, as Docker and containerd have it.
pub(super) fn is_local(authority: &str) -> bool {
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (authority, None),
    };
    let loopback = host.trim_matches(['[', ']']).parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback());
    (host == "localhost" || loopback) && port != Some("443")
}

/// Docker's files: `*.crt` to trust, `*.cert` with `*.key` to show.
fn certificates_in(dir: &Path) -> Result<Tls, RegistryError> {
    let failed = |why: io::Error| RegistryError::Configuration { path: dir.to_owned(), why: why.to_string() };
    let mut paths: Vec<_> = fs::read_dir(dir).map_err(failed)?.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    let mut tls = Tls::default();
    for path in paths {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("crt") => tls.ca.push(path),
            Some("cert") => {
                let key = path.with_extension("key");
                tls.client.push((path, Some(key)));
            }
            _ => {}
        }
    }
    Ok(tls)
}

fn from_toml(domain: &str, text: &str, file: &Path) -> Result<Vec<Host>, RegistryError> {
    let invalid = |why: String| RegistryError::Configuration { path: file.to_owned(), why };
    let document: toml::Table = toml::from_str(text).map_err(|error| invalid(error.to_string()))?;
    let mut hosts = Vec::new();
    if let Some(listed) = document.get("host") {
        let listed = listed.as_table().ok_or_else(|| invalid("host is not a table".into()))?;
        for (url, settings) in listed {
            let settings =
                settings.as_table().ok_or_else(|| invalid(format!("host {url:?} is not a table")))?;
            hosts.push(host(domain, url, settings, file).map_err(invalid)?);
        }
    }
    let own = match document.get("server") {
        None => upstream(domain).base.trim_end_matches("/v2").to_owned(),
        Some(server) => server.as_str().ok_or_else(|| invalid("server is not a string".into()))?.to_owned(),
    };
    let own = host(domain, &own, &document, file).map_err(invalid)?;
    hosts.push(Host { server: true, ..own });
    Ok(hosts)
}

/// One `[host."url"]`, or the fields beside `server`.
fn host(domain: &str, url: &str, settings: &toml::Table, file: &Path) -> Result<Host, String> {
    let wrong = |key: &str, what: &str| format!("{key} of host {url:?} is not {what}");
    let with_scheme = match url.contains("://") {
        true => url.to_owned(),
        false if is_local(url) => format!("http://{url}"),
        false => format!("https://{url}"),
    };
    let uri: Uri = with_scheme.parse().map_err(|_| format!("host {url:?} is not a URL"))?;
    let authority = uri.authority().ok_or_else(|| format!("host {url:?} is not a URL"))?.to_string();
    let scheme = uri.scheme_str().filter(|scheme| matches!(*scheme, "http" | "https"));
    let scheme = scheme.ok_or_else(|| format!("host {url:?} is neither http nor https"))?;
    // `https://docker.io` is how configurations write Docker Hub, and not where it is.
    let authority = if authority == "docker.io" { "registry-1.docker.io".to_owned() } else { authority };
    let flag = |key: &str| match settings.get(key) {
        None => Ok(false),
        Some(value) => value.as_bool().ok_or_else(|| wrong(key, "true or false")),
    };
    let path = uri.path().trim_end_matches('/');
    let path = match flag("override_path")? || path.ends_with("/v2") {
        true => path.to_owned(),
        false => format!("{path}/v2"),
    };
    let (mut resolve, mut pull) = (true, true);
    if let Some(capabilities) = settings.get("capabilities") {
        (resolve, pull) = (false, false);
        for capability in strings(capabilities).ok_or_else(|| wrong("capabilities", "a list of strings"))? {
            match capability.as_str() {
                "pull" => pull = true,
                "resolve" => resolve = true,
                "push" => {}
                other => return Err(format!("host {url:?} has an unknown capability {other:?}")),
            }
        }
    }
    let beside = |name: &str| file.parent().unwrap_or(Path::new("")).join(name);
    let ca = match settings.get("ca") {
        None => Vec::new(),
        Some(value) => strings(value).ok_or_else(|| wrong("ca", "a path or a list of paths"))?,
    };
    let client = match settings.get("client") {
        None => Vec::new(),
        Some(value) => pairs(value).ok_or_else(|| wrong("client", "a path, or a list of paths or pairs"))?,
    };
    let mut headers = HeaderMap::new();
    if let Some(listed) = settings.get("header") {
        for (name, values) in listed.as_table().ok_or_else(|| wrong("header", "a table"))? {
            let values = strings(values).ok_or_else(|| wrong("header", "of strings or lists of strings"))?;
            let name = HeaderName::try_from(name)
                .map_err(|_| format!("header {name:?} of host {url:?} is no header name"))?;
            for value in values {
                // The value may be a secret: it is not repeated.
                let mut value = HeaderValue::try_from(value).map_err(|_| wrong("header", "printable"))?;
                value.set_sensitive(true);
                headers.append(name.clone(), value);
            }
        }
    }
    let dial_timeout = match settings.get("dial_timeout") {
        None => DIAL_TIMEOUT,
        Some(value) => {
            value.as_str().and_then(duration).ok_or_else(|| wrong("dial_timeout", "a duration like 30s"))?
        }
    };
    Ok(Host {
        base: format!("{scheme}://{authority}{path}"),
        upstream: authority == upstream(domain).authority,
        server: false,
        authority,
        resolve,
        pull,
        headers,
        tls: Tls {
            ca: ca.iter().map(|name| beside(name)).collect(),
            client: client.iter().map(|(cert, key)| (beside(cert), key.as_deref().map(beside))).collect(),
            skip_verify: flag("skip_verify")?,
        },
        dial_timeout,
    })
}

/// A string, or a list of them.
fn strings(value: &toml::Value) -> Option<Vec<String>> {
    match value {
        toml::Value::String(text) => Some(vec![text.clone()]),
        toml::Value::Array(list) => list.iter().map(|item| item.as_str().map(str::to_owned)).collect(),
        _ => None,
    }
}

/// A path, or a list of paths and of `[certificate, key]` pairs, in which an empty key is none.
fn pairs(value: &toml::Value) -> Option<Vec<(String, Option<String>)>> {
    let toml::Value::Array(list) = value else {
        return Some(vec![(value.as_str()?.to_owned(), None)]);
    };
    list.iter()
        .map(|item| match item {
            toml::Value::String(certificate) => Some((certificate.clone(), None)),
            item => match strings(item)?.as_slice() {
                [certificate] => Some((certificate.clone(), None)),
                [certificate, key] => {
                    Some((certificate.clone(), Some(key.clone()).filter(|key| !key.is_empty())))
                }
                _ => None,
            },
        })
        .collect()
}

/// A duration as Go writes it: `1m30s`, `500ms`, `1.5s`.
fn duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let amount: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let seconds = match &rest[..unit] {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        total += Duration::try_from_secs_f64(amount * seconds).ok()?;
        rest = &rest[unit..];
    }
    (!text.is_empty()).then_some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Vec<Host>, RegistryError> {
        from_toml("registry.example:5000", text, Path::new("/certs.d/x/hosts.toml"))
    }

    #[test]
    fn a_configuration_is_read_in_its_order() {
        let hosts = parsed(
            r#"
            server = "https://registry.example:5000"
            ca = "own.crt"
            [host."http://z-mirror:80/project"]
              capabilities = ["pull"]
              dial_timeout = "1m1.5s"
            [host."https://a-mirror/v2/cache"]
              override_path = true
              skip_verify = true
              ca = ["/abs/a.pem", "b.pem"]
              client = [["c.cert", "c.key"], ["d.pem", ""], "e.pem"]
              [host."https://a-mirror/v2/cache".header]
                x-key = ["one", "two"]
                Authorization = "Basic c2VjcmV0"
            [host."bare.mirror"]
            "#,
        )
        .unwrap();
        let bases: Vec<_> = hosts.iter().map(|host| host.base.as_str()).collect();
        assert_eq!(
            bases,
            [
                "http://z-mirror:80/project/v2",
                "https://a-mirror/v2/cache",
                "https://bare.mirror/v2",
                "https://registry.example:5000/v2"
            ]
        );
        let [z, a, bare, own] = &hosts[..] else { panic!("{hosts:?}") };
        assert_eq!((z.resolve, z.pull, z.dial_timeout), (false, true, Duration::from_millis(61_500)));
        assert!(a.tls.skip_verify && a.resolve && a.pull && !a.upstream && !bare.upstream);
        assert_eq!(a.tls.ca, [PathBuf::from("/abs/a.pem"), PathBuf::from("/certs.d/x/b.pem")]);
        assert_eq!(a.tls.client[0].1.as_deref(), Some(Path::new("/certs.d/x/c.key")));
        assert_eq!((a.tls.client[1].1.as_deref(), a.tls.client[2].1.as_deref()), (None, None));
        assert_eq!(a.headers.get_all("x-key").iter().count(), 2);
        assert!(!format!("{a:?}").contains("c2VjcmV0"), "secrets are not printed");
        assert!(own.upstream);
        assert_eq!(own.tls.ca, [PathBuf::from("/certs.d/x/own.crt")]);
    }

    #[test]
    fn mistakes_are_named() {
        for (text, why) in [
            ("server = 1", "server"),
            ("host = 1", "host"),
            ("[host.\"https://m\"]\ncapabilities = [\"pul\"]", "pul"),
            ("[host.\"ftp://m\"]", "neither http"),
            ("[host.\"https://m\"]\nskip_verify = 1", "skip_verify"),
            ("[host.\"https://m\"]\ndial_timeout = \"5\"", "dial_timeout"),
            ("x = ", "1:5"),
        ] {
            let error = parsed(text).unwrap_err().to_string();
            assert!(error.contains("/certs.d/x/hosts.toml"), "{error}");
            if text != "x = " {
                assert!(error.contains(why), "{text}: {error}");
            }
        }
    }

    #[test]
    fn directories_are_found_in_their_order() {
        let root = tempfile::tempdir().unwrap();
        let [first, second] = ["first", "second"].map(|name| root.path().join(name));
        let write = |dir: PathBuf, server: &str| {
            fs::create_dir_all(&dir).unwrap();
            fs::write(dir.join("hosts.toml"), format!("server = \"https://{server}\"")).unwrap();
        };
        let base =
            |domain: &str| hosts_for(domain, &[first.clone(), second.clone()]).unwrap().pop().unwrap().base;
        assert_eq!(base("a.example:5000"), "https://a.example:5000/v2");
        write(second.join("_default"), "default");
        assert_eq!(base("a.example:5000"), "https://default/v2");
        write(second.join("a.example:5000"), "colon");
        assert_eq!(base("a.example:5000"), "https://colon/v2");
        write(second.join("a.example_5000_"), "underscores");
        assert_eq!(base("a.example:5000"), "https://underscores/v2");
        write(first.join("_default"), "first");
        assert_eq!(base("a.example:5000"), "https://first/v2");
        let docker = first.join("b.example");
        fs::create_dir_all(&docker).unwrap();
        fs::write(docker.join("x.crt"), "").unwrap();
        fs::write(docker.join("y.cert"), "").unwrap();
        let hosts = hosts_for("b.example", std::slice::from_ref(&first)).unwrap();
        assert_eq!((hosts[0].tls.ca.len(), hosts[0].tls.client.len()), (1, 1));
    }

    #[test]
    fn hosts_without_configuration_have_their_defaults() {
        for (domain, base) in [
            ("docker.io", "https://registry-1.docker.io/v2"),
            ("quay.io", "https://quay.io/v2"),
            ("localhost:5000", "http://localhost:5000/v2"),
            ("127.0.0.9", "http://127.0.0.9/v2"),
            ("[::1]:5000", "http://[::1]:5000/v2"),
            ("localhost:443", "https://localhost:443/v2"),
            ("10.0.0.1:5000", "https://10.0.0.1:5000/v2"),
        ] {
            assert_eq!(hosts_for(domain, &[]).unwrap()[0].base, base, "{domain}");
        }
    }
}
