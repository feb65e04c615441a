//! What is refused, by its name. Pairs that are right, their rotation and clients' certificates are tested in e2e,
//! with openssl's.

use super::*;

#[test]
fn a_file_that_is_of_no_use_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        fs::write(&path, text).unwrap();
        path
    };
    let pem = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let (certificate, empty, rubbish) = (file("cert", pem), file("empty", ""), file("rubbish", "\u{1}"));
    let missing = dir.path().join("missing");
    let load = |certificate: &Path, key: &Path, client_ca: Option<&PathBuf>| {
        let files = TlsFiles {
            certificate: certificate.to_owned(),
            key: key.to_owned(),
            client_ca: client_ca.cloned(),
        };
        Tls::load(files).unwrap_err().to_string()
    };
    for (said, expected) in [
        (load(&missing, &rubbish, None), format!("use {} for TLS", missing.display())),
        (
            load(&empty, &rubbish, None),
            format!("{} for TLS of the streaming server: it holds no certificate", empty.display()),
        ),
        (load(dir.path(), &rubbish, None), "not a file of a certificate's size".to_owned()),
        (
            load(&certificate, &rubbish, None),
            format!("{} for TLS of the streaming server: it holds no private key", rubbish.display()),
        ),
    ] {
        assert!(said.contains(&expected), "{said}");
    }
}
