//! TLS of the streaming server: a certificate pair, client certificates where an authority for them is named,
//! and new files taken up without a restart.
//!
//! Whether a file has changed is looked at when a client connects and once a minute, so that a bad rotation is
//! in the log before somebody needs the next one. Files that cannot be used change nothing.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use model::{Classify, ErrorKind};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};

/// A file of a certificate or a key, bytes.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Where certificate, key and authority are; all in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The server's certificate, then those that lead to its root.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// Who signs clients' certificates. Without it, clients need none.
    pub client_ca: Option<PathBuf>,
}

/// A file is of no use.
#[derive(Debug, thiserror::Error)]
#[error("use {path} for TLS of the streaming server: {why}", path = path.display())]
pub struct TlsError {
    path: PathBuf,
    why: String,
}

impl Classify for TlsError {
    fn kind(&self) -> ErrorKind {
        ErrorKind::Invalid
    }
}

/// What the files say, as far as they were of use.
#[derive(Debug)]
pub(super) struct Tls {
    files: TlsFiles,
    current: Mutex<Current>,
}

#[derive(Debug)]
struct Current {
    config: Arc<ServerConfig>,
    /// Of the files that were read last, whether or not they could be used.
    stamps: Vec<Stamp>,
}

/// Tells one content of a file from another: device, inode, size, time of change in nanoseconds.
type Stamp = Option<(u64, u64, u64, i64, i64)>;

impl Tls {
    /// Reads the files; must not be called from an asynchronous task.
    pub(super) fn load(files: TlsFiles) -> Result<Self, TlsError> {
        let stamps = files.stamps();
        let config = files.read()?;
        Ok(Self { files, current: Mutex::new(Current { config, stamps }) })
    }

    /// What the files say now; what they said, while they are of no use. Reads files.
    pub(super) fn current(&self) -> Arc<ServerConfig> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        // Before the files are read: what changes in between is seen the next time.
        let stamps = self.files.stamps();
        if stamps != current.stamps {
            current.stamps = stamps;
            match self.files.read() {
                Ok(config) => {
                    current.config = config;
                    tracing::info!(
                        certificate = %self.files.certificate.display(),
                        "new TLS files of the streaming server are in use",
                    );
                }
                Err(error) => tracing::error!(
                    error = model::chain(&error),
                    "new TLS files of the streaming server are of no use; the ones before stay in use",
                ),
            }
        }
        Arc::clone(&current.config)
    }
}

impl TlsFiles {
    fn stamps(&self) -> Vec<Stamp> {
        let paths = [Some(&self.certificate), Some(&self.key), self.client_ca.as_ref()];
        let stamp = |path: &PathBuf| {
            let found = fs::metadata(path).ok()?;
            Some((found.dev(), found.ino(), found.size(), found.ctime(), found.ctime_nsec()))
        };
        paths.into_iter().flatten().map(stamp).collect()
    }

    fn read(&self) -> Result<Arc<ServerConfig>, TlsError> {
        let chain = certificates(&self.certificate)?;
        let key = PrivateKeyDer::from_pem_slice(&content(&self.key)?)
            .map_err(|e| unusable(&self.key, format!("it holds no private key: {e}")))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|e| unusable(&self.certificate, e.to_string()))?;
        let builder = match &self.client_ca {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let mut roots = RootCertStore::empty();
                for certificate in certificates(path)? {
                    roots.add(certificate).map_err(|e| unusable(path, e.to_string()))?;
                }
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
                builder.with_client_cert_verifier(verifier.map_err(|e| unusable(path, e.to_string()))?)
            }
        };
        let mut config = builder.with_single_cert(chain, key).map_err(|e| {
            let of = self.certificate.display();
            unusable(&self.key, format!("it does not go with the certificate in {of}: {e}"))
        })?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}

fn unusable(path: &Path, why: String) -> TlsError {
    TlsError { path: path.to_owned(), why }
}

fn content(path: &Path) -> Result<Vec<u8>, TlsError> {
    let read = || -> io::Result<Vec<u8>> {
        let found = fs::metadata(path)?;
        if !found.is_file() || found.size() > FILE_BYTES_MAX {
            return Err(io::Error::other("not a file of a certificate's size"));
        }
        fs::read(path)
    };
    read().map_err(|e| unusable(path, e.to_string()))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let pem = content(path)?;
    let found = CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>();
    let found = found.map_err(|e| unusable(path, e.to_string()))?;
    if found.is_empty() { Err(unusable(path, "it holds no certificate".to_owned())) } else { Ok(found) }
}

#[cfg(test)]
mod tests;
