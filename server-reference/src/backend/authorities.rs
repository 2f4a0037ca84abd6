//! `ca=FILE` in the URL of an engine: the authorities whose certificates are trusted, in place of the machine's.

use std::fs;
#[cfg(feature = "nats")]
use std::{error::Error, io};

use rustls::pki_types::{CertificateDer, pem::PemObject};

use super::error::BackendError;

/// Authorities, as a file has them.
pub(super) struct Authorities {
    /// The file.
    pub(super) pem: Vec<u8>,
    /// At least one.
    pub(super) certificates: Vec<CertificateDer<'static>>,
}

/// Reads a file of certificates.
pub(super) fn read(file: &str) -> Result<Authorities, BackendError> {
    let invalid = |why: String| BackendError::Invalid(format!("ca in the URL of an engine: {file}: {why}"));
    let pem = fs::read(file).map_err(|error| invalid(error.to_string()))?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let certificates = certificates.map_err(|error| invalid(error.to_string()))?;
    if certificates.is_empty() {
        return Err(invalid("there is no certificate in it, of the form PEM".into()));
    }
    Ok(Authorities { pem, certificates })
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
            let Err(BackendError::Invalid(error)) = read(file.to_str().unwrap()) else { panic!("{file:?} is refused") };
            assert!(error.contains(why), "{error}");
        }
        fs::remove_file(empty).unwrap();
    }
}
