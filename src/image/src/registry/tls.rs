//! Whom to trust: the system's roots and the certificates that a host's configuration names, or anybody.

use std::error::Error;
use std::fs;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, OtherError, RootCertStore, SignatureScheme,
};

use super::error::RegistryError;
use super::hosts::Tls;

/// What rustls needs to know about one host.
pub(super) fn config(tls: &Tls) -> Result<ClientConfig, RegistryError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|e| broken(Path::new("TLS"), e.to_string()))?;
    let builder = if tls.skip_verify {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(Anybody(provider)))
    } else if tls.ca.is_empty() {
        builder.with_root_certificates(native_roots())
    } else {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(Named::new(tls, provider)?))
    };
    let Some((certificate, key)) = tls.client.first() else { return Ok(builder.with_no_client_auth()) };
    let chain = certificates(certificate)?;
    let key = key.as_ref().unwrap_or(certificate);
    let pem = fs::read(key).map_err(|e| broken(key, e.to_string()))?;
    let key = PrivateKeyDer::from_pem_slice(&pem).map_err(|e| broken(key, e.to_string()))?;
    builder.with_client_auth_cert(chain, key).map_err(|e| broken(certificate, e.to_string()))
}

fn broken(path: &Path, why: String) -> RegistryError {
    RegistryError::Configuration { path: path.to_owned(), why }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, RegistryError> {
    let pem = fs::read(path).map_err(|e| broken(path, e.to_string()))?;
    let found = CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>();
    let found = found.map_err(|e| broken(path, e.to_string()))?;
    if found.is_empty() { Err(broken(path, "holds no certificate".to_owned())) } else { Ok(found) }
}

/// The system's roots, read once.
fn native_roots() -> Arc<RootCertStore> {
    static ROOTS: OnceLock<Arc<RootCertStore>> = OnceLock::new();
    let read = || {
        let found = rustls_native_certs::load_native_certs();
        for error in &found.errors {
            tracing::warn!(error = error as &dyn Error, "a system certificate store is unreadable");
        }
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(found.certs);
        Arc::new(roots)
    };
    ROOTS.get_or_init(read).clone()
}

/// The system's roots and certificates by name.
///
/// A registry with a certificate that it signed itself is common, and its configuration names that one
/// certificate as its own authority. WebPKI takes no authority for a server; a certificate that is named
/// is trusted for what it says all the same, as Go's and OpenSSL's clients have it.
#[derive(Debug)]
struct Named {
    roots: Arc<WebPkiServerVerifier>,
    named: Vec<CertificateDer<'static>>,
}

impl Named {
    fn new(tls: &Tls, provider: Arc<CryptoProvider>) -> Result<Self, RegistryError> {
        let mut roots = (*native_roots()).clone();
        let mut named = Vec::new();
        for path in &tls.ca {
            for certificate in certificates(path)? {
                roots.add(certificate.clone()).map_err(|e| broken(path, e.to_string()))?;
                named.push(certificate);
            }
        }
        let roots = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build();
        Ok(Self { roots: roots.map_err(|e| broken(Path::new("TLS"), e.to_string()))?, named })
    }
}

impl ServerCertVerifier for Named {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let refusal = match self.roots.verify_server_cert(certificate, intermediates, name, ocsp, now) {
            Ok(verified) => return Ok(verified),
            Err(refusal) => refusal,
        };
        if !is_authority(&refusal) || !self.named.iter().any(|named| named == certificate) {
            return Err(refusal);
        }
        // Its dates were checked before it was refused; its name was not.
        verify_server_name(&ParsedCertificate::try_from(certificate)?, name)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.roots.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.roots.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.roots.supported_verify_schemes()
    }
}

/// Whether a certificate was refused only because it is an authority's (webpki, `CaUsedAsEndEntity`).
fn is_authority(refusal: &rustls::Error) -> bool {
    match refusal {
        rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(inner))) => {
            inner.to_string().contains("CaUsedAsEndEntity")
        }
        _ => false,
    }
}

/// `skip_verify = true`: the configuration says that whoever answers is the registry.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
