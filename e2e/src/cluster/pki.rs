//! A certificate authority of the cluster's own, what it signs, and the kubeconfigs that carry it: as kubeadm makes
//! them, by openssl.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::command::{command, run};
use crate::programs::installed;

/// Longer than any cluster of ours lives.
const DAYS: &str = "30";

/// A directory of keys and certificates, as `ca.crt`, `NAME.crt`, `NAME.key`.
#[derive(Debug, Clone)]
pub struct Pki {
    dir: PathBuf,
}

impl Pki {
    /// Makes the directory, readable by root alone, and the authority.
    #[track_caller]
    pub fn new(dir: &Path) -> Self {
        use std::os::unix::fs::PermissionsExt as _;
        fs::create_dir_all(dir).expect("make the directory of certificates");
        fs::set_permissions(dir, fs::Permissions::from_mode(0o700)).expect("close the directory of keys");
        let pki = Self { dir: dir.to_path_buf() };
        pki.key("ca");
        openssl(&["req", "-x509", "-new", "-subj", "/CN=gantline-e2e", "-days", DAYS, "-key"], |line| {
            line.arg(pki.path("ca.key")).arg("-out").arg(pki.path("ca.crt"));
        });
        pki
    }

    /// A file of it.
    pub fn path(&self, file: &str) -> PathBuf {
        self.dir.join(file)
    }

    /// A key, and its public half as `NAME.pub`, for service account tokens.
    #[track_caller]
    pub fn key_pair(&self, name: &str) {
        self.key(name);
        openssl(&["ec", "-pubout", "-in"], |line| {
            line.arg(self.path(&format!("{name}.key"))).arg("-out").arg(self.path(&format!("{name}.pub")));
        });
    }

    #[track_caller]
    fn key(&self, name: &str) {
        openssl(&["ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out"], |line| {
            line.arg(self.path(&format!("{name}.key")));
        });
    }

    /// A certificate for a client and server alike: `subject` as `/O=…/CN=…`, `names` as openssl's `DNS:…` and `IP:…`.
    #[track_caller]
    pub fn certificate(&self, name: &str, subject: &str, names: &[String]) {
        self.key(name);
        let of = |ending: &str| self.path(&format!("{name}.{ending}"));
        let mut extensions = String::from("extendedKeyUsage=clientAuth,serverAuth\n");
        if !names.is_empty() {
            extensions.push_str(&format!("subjectAltName={}\n", names.join(",")));
        }
        fs::write(of("ext"), extensions).expect("write a certificate's extensions");
        openssl(&["req", "-new", "-subj", subject, "-key"], |line| {
            line.arg(of("key")).arg("-out").arg(of("csr"));
        });
        openssl(&["x509", "-req", "-days", DAYS, "-CAcreateserial", "-CA"], |line| {
            line.arg(self.path("ca.crt")).arg("-CAkey").arg(self.path("ca.key"));
            line.arg("-extfile").arg(of("ext")).arg("-in").arg(of("csr")).arg("-out").arg(of("crt"));
        });
    }

    /// A certificate of a user and the kubeconfig that uses it, as `NAME.conf`.
    #[track_caller]
    pub fn kubeconfig(&self, name: &str, subject: &str, server: &str) -> PathBuf {
        self.certificate(name, subject, &[]);
        let config = self.kubeconfig_of(
            server,
            json!({
                "client-certificate-data": self.base64(&format!("{name}.crt")),
                "client-key-data": self.base64(&format!("{name}.key")),
            }),
        );
        let path = self.path(&format!("{name}.conf"));
        fs::write(&path, config.to_string()).expect("write a kubeconfig");
        path
    }

    fn kubeconfig_of(&self, server: &str, user: Value) -> Value {
        json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "gantline",
            "clusters": [{"name": "gantline", "cluster": {
                "server": server, "certificate-authority-data": self.base64("ca.crt"),
            }}],
            "users": [{"name": "user", "user": user}],
            "contexts": [{"name": "gantline", "context": {"cluster": "gantline", "user": "user"}}],
        })
    }

    #[track_caller]
    fn base64(&self, file: &str) -> String {
        run(command(installed("base64")).arg("-w0").arg(self.path(file))).ok()
    }
}

/// Runs openssl; what it says when all went well is nobody's business.
#[track_caller]
fn openssl(args: &[&str], more: impl FnOnce(&mut std::process::Command)) {
    let mut line = command(installed("openssl"));
    line.args(args);
    more(&mut line);
    run(&mut line).ok();
}
