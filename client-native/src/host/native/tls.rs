//! The default trust for `wss`: the system's root certificates, Mozilla's, or both, as features say.
//!
//! The crypto provider is named, never looked up: rustls panics when it has to choose between two.

use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore, crypto::ring};

use tokio::sync::OnceCell;

use crate::error::ConnectError;

/// The configuration of TLS: the program's, or the default one, made when it is first needed.
#[derive(Clone, Default)]
pub(crate) struct Trust {
    config: Arc<OnceCell<Arc<ClientConfig>>>,
}

impl Trust {
    pub(crate) async fn config(&self) -> Result<Arc<ClientConfig>, ConnectError> {
        self.config.get_or_try_init(default_config).await.cloned()
    }
}

impl From<Arc<ClientConfig>> for Trust {
    fn from(config: Arc<ClientConfig>) -> Self {
        Self { config: Arc::new(OnceCell::new_with(Some(config))) }
    }
}

/// Reads certificates from disk, therefore on a thread where that is allowed.
async fn default_config() -> Result<Arc<ClientConfig>, ConnectError> {
    let config = tokio::task::spawn_blocking(build).await.map_err(|error| ConnectError::Tls(error.to_string()))?;
    config.map(Arc::new)
}

fn build() -> Result<ClientConfig, ConnectError> {
    let mut roots = RootCertStore::empty();
    #[cfg(feature = "rustls-webpki-roots")]
    roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    #[cfg(feature = "rustls-native-roots")]
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        return Err(ConnectError::Tls("the system has no root certificates".into()));
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| ConnectError::Tls(error.to_string()))?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}
