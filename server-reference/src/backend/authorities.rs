//! `ca=FILE` in the URL of an engine: the authorities whose certificates are trusted, in place of the machine's.

use std::fs;
#[cfg(feature = "nats")]
use std::{error::Error, io};

use rustls::pki_types::{CertificateDer, pem::PemObject};

use super::error::BackendError;

/// A file of certificates, and those that are in it: at least one.
fn open(file: &str) -> Result<(Vec<u8>, Vec<CertificateDer<'static>>), BackendError> {
    let invalid = |why: String| BackendError::Invalid(format!("ca in the URL of an engine: {file}: {why}"));
    let pem = fs::read(file).map_err(|error| invalid(error.to_string()))?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let certificates = certificates.map_err(|error| invalid(error.to_string()))?;
    if certificates.is_empty() {
        return Err(invalid("there is no certificate in it, of the form PEM".into()));
    }
    Ok((pem, certificates))
}

/// The file, once it is known to have certificates.
#[cfg(any(feature = "nats", feature = "redis"))]
pub(super) fn pem(file: &str) -> Result<Vec<u8>, BackendError> {
    open(file).map(|(pem, _)| pem)
}

/// The certificates of a file.
#[cfg(feature = "postgres")]
pub(super) fn certificates(file: &str) -> Result<Vec<CertificateDer<'static>>, BackendError> {
    open(file).map(|(_, certificates)| certificates)
}

/// What TLS found wrong, if that is why an error came.
#[cfg(feature = "nats")]
pub(super) fn refusal(error: &(dyn Error + 'static)) -> Option<String> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<rustls::Error>() {
            return Some(error.to_string());
        }
        let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        next = match inner {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_without_certificates_are_refused() {
        let missing = std::env::temp_dir().join(format!("datasole-no-such-{}.pem", std::process::id()));
        let empty = std::env::temp_dir().join(format!("datasole-empty-{}.pem", std::process::id()));
        fs::write(&empty, "no certificate").unwrap();
        for (file, why) in [(&missing, "No such file"), (&empty, "there is no certificate")] {
            let Err(BackendError::Invalid(error)) = open(file.to_str().unwrap()) else { panic!("{file:?} is refused") };
            assert!(error.contains(why), "{error}");
        }
        fs::remove_file(empty).unwrap();
    }
}
