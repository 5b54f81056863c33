//! What a Redis wants to see of us, as it is now: a password, certificates.
//!
//! Called by `connection` before each time that it connects. Reads files, which may be on a disk that
//! doesn't answer: under a time limit, in threads that nothing else needs.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsConnector;

use super::connection::ConnectError;
use crate::config::{Address, Connection, Password, Secret, TlsFiles};
use crate::file::{LARGEST_SECRET, Patience};

/// Largest file of certificates: a system's own have less than 1 MiB.
const LARGEST_PEM: u64 = 16 << 20;

/// What proves who we are, and who Redis is.
pub(super) struct Credentials {
    /// None where none is configured.
    pub(super) password: Option<Secret>,
    /// Where the address wants it.
    pub(super) tls: Option<TlsConnector>,
}

impl Credentials {
    /// As they are now.
    pub(super) async fn read(config: &Connection, files: &Patience) -> Result<Self, ConnectError> {
        let password = match &config.password {
            Password::None => None,
            Password::Url(secret) => Some(secret.clone()),
            Password::File(file) => Some(read_password(file, files).await?),
        };
        let tls = match &config.address {
            Address::Tls { .. } => Some(tls_connector(&config.tls, files).await?),
            Address::Tcp { .. } | Address::Unix(_) | Address::Embedded(_) => None,
        };
        Ok(Credentials { password, tls })
    }
}

fn bad(file: &Path, reason: String) -> ConnectError {
    ConnectError::File { file: file.to_owned(), reason }
}

async fn read_password(file: &Path, files: &Patience) -> Result<Secret, ConnectError> {
    let wrong = |why: String| bad(file, format!("the Redis password can't be read: {why}"));
    let bytes = files.read(file, LARGEST_SECRET).await;
    let bytes = bytes.map_err(|unread| wrong(format!("the file {unread}")))?;
    let text = String::from_utf8(bytes).map_err(|_| wrong("the file is not UTF-8".to_owned()))?;
    Ok(Secret::new(text.trim_end_matches(['\r', '\n'])))
}

async fn read_pem(file: &Path, files: &Patience) -> Result<Vec<u8>, ConnectError> {
    let unusable = |unread| bad(file, format!("this file of `tls` {unread}"));
    files.read(file, LARGEST_PEM).await.map_err(unusable)
}

async fn certificates(
    file: &Path,
    files: &Patience,
) -> Result<Vec<CertificateDer<'static>>, ConnectError> {
    let bytes = read_pem(file, files).await?;
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    match read {
        Ok(certificates) if certificates.is_empty() => {
            Err(bad(file, "there is no PEM certificate in it".to_owned()))
        }
        Ok(certificates) => Ok(certificates),
        Err(e) => Err(bad(file, format!("no PEM certificate can be read from it: {e}"))),
    }
}

async fn tls_connector(tls: &TlsFiles, files: &Patience) -> Result<TlsConnector, ConnectError> {
    let mut roots = rustls::RootCertStore::empty();
    match &tls.ca_file {
        Some(file) => {
            for certificate in certificates(file, files).await? {
                roots.add(certificate).map_err(|e| bad(file, e.to_string()))?;
            }
        }
        None => {
            let found = files.work(rustls_native_certs::load_native_certs).await;
            let unusable = |unread| ConnectError::File {
                file: PathBuf::from("tls"),
                reason: format!("a file of this system's certificates {unread}"),
            };
            roots.add_parsable_certificates(found.map_err(unusable)?.certs);
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| bad(Path::new("tls"), e.to_string()))?
        .with_root_certificates(roots);
    let config = match (&tls.cert_file, &tls.key_file) {
        (Some(cert), Some(key)) => {
            let private = PrivateKeyDer::from_pem_slice(&read_pem(key, files).await?)
                .map_err(|e| bad(key, format!("no PEM private key could be read from it: {e}")))?;
            builder
                .with_client_auth_cert(certificates(cert, files).await?, private)
                .map_err(|e| bad(cert, e.to_string()))?
        }
        _ => builder.with_no_client_auth(),
    };
    Ok(TlsConnector::from(Arc::new(config)))
}
