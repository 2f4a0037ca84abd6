//! TLS to engines: an authority that is trusted, another one, and a certificate for another host.

use std::{
    fs,
    path::{Path, PathBuf},
};

use data_encoding::BASE64;
use datasole_server::backend::{BackendError, Engines};
use rcgen::{CertificateParams, CertifiedIssuer, KeyPair};
use tokio::time::{Instant, sleep};

#[cfg(unix)]
use crate::postgres::server::Server;
use crate::{
    nats, redis,
    running::Running,
    writers::{PATIENCE, PAUSE},
};

fn pem(what: &str, der: &[u8]) -> String {
    let text = BASE64.encode(der);
    let lines: Vec<&str> = text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN {what}-----\n{}\n-----END {what}-----\n", lines.join("\n"))
}

/// An authority, a certificate of it for 127.0.0.1, and another authority, each in a file of a folder.
struct Certificates {
    dir: PathBuf,
}

impl Certificates {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("datasole-tls-{name}-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let authority = |name: &str| {
            let mut params = CertificateParams::new(Vec::new()).unwrap();
            params.distinguished_name.push(rcgen::DnType::CommonName, name);
            params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
            let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
            fs::write(dir.join(name), pem("CERTIFICATE", authority.as_ref().der())).unwrap();
            authority
        };
        let (trusted, _) = (authority("ca.pem"), authority("other.pem"));
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &trusted).unwrap();
        fs::write(dir.join("cert.pem"), pem("CERTIFICATE", certificate.der())).unwrap();
        fs::write(dir.join("key.pem"), pem("PRIVATE KEY", &key.serialize_der())).unwrap();
        Self { dir }
    }

    fn file(&self, name: &str) -> String {
        self.dir.join(name).to_str().unwrap().to_owned()
    }
}

impl Drop for Certificates {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// `url` gives the URL of an engine with this host and this end of its options.
async fn is_verified(certificates: &Certificates, url: impl Fn(&str, &str) -> String) {
    let (ca, other) = (format!("ca={}", certificates.file("ca.pem")), format!("ca={}", certificates.file("other.pem")));
    let deadline = Instant::now() + PATIENCE;
    loop {
        match Engines::open(url("127.0.0.1", &ca).as_str()).await {
            Ok(engines) => break drop(engines.node().await.unwrap()),
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        sleep(PAUSE).await;
    }
    for (host, options, why) in [
        ("127.0.0.1", other.as_str(), "UnknownIssuer"),
        ("localhost", ca.as_str(), "not valid for name"),
        ("127.0.0.1", "", "UnknownIssuer"),
    ] {
        let url = url(host, options);
        let Err(error) = Engines::open(url.as_str()).await else { panic!("{url} is refused") };
        assert!(matches!(error, BackendError::Unavailable(_)), "{url}: {error:?}");
        assert!(error.to_string().contains(why), "{url}: {error}");
        assert!(!error.to_string().contains("secret"), "{error}");
    }
    let missing = url("127.0.0.1", "ca=/no/such/file.pem");
    let Err(error) = Engines::open(missing.as_str()).await else { panic!("{missing} is refused") };
    assert!(matches!(error, BackendError::Invalid(_)) && !error.to_string().contains("secret"), "{error}");
}

#[tokio::test]
async fn redis_is_verified() {
    let certificates = Certificates::new("redis");
    let server = Running::start(redis::PROGRAM, |port, dir: &Path| {
        let (port, dir) = (port.to_string(), dir.to_str().unwrap().to_owned());
        let (ca, cert, key) =
            (certificates.file("ca.pem"), certificates.file("cert.pem"), certificates.file("key.pem"));
        [
            ["--port", "0", "--tls-port", &port, "--dir", &dir, "--save", "", "--requirepass", "secret"],
            [
                "--tls-ca-cert-file",
                &ca,
                "--tls-cert-file",
                &cert,
                "--tls-key-file",
                &key,
                "--tls-auth-clients",
                "no",
                "--bind",
                "127.0.0.1",
            ],
        ]
        .concat()
        .into_iter()
        .map(str::to_owned)
        .collect()
    });
    is_verified(&certificates, |host, options| format!("rediss://:secret@{host}:{}/?{options}", server.port)).await;
    let Err(error) = Engines::open(format!("redis://:secret@127.0.0.1:{}", server.port).as_str()).await else {
        panic!("there is TLS only")
    };
    assert!(matches!(error, BackendError::Unavailable(_)) && !error.to_string().contains("secret"), "{error:?}");
}

#[cfg(unix)]
#[tokio::test]
async fn postgres_is_verified() {
    let certificates = Certificates::new("postgres");
    let server = Server::with_tls(&certificates.file("cert.pem"), &certificates.file("key.pem"));
    server.sql("CREATE ROLE ann LOGIN PASSWORD 'secret'");
    server.sql("CREATE DATABASE app OWNER ann");
    for mode in ["require", "verify-full"] {
        is_verified(&certificates, |host, options| {
            format!("postgres://ann:secret@{host}:{}/app?sslmode={mode}&{options}", server.port)
        })
        .await;
    }
    let without = format!("postgres://ann:secret@127.0.0.1:{}/app?ca={}", server.port, certificates.file("ca.pem"));
    let Err(error) = Engines::open(without.as_str()).await else { panic!("an authority needs TLS") };
    assert!(matches!(&error, BackendError::Invalid(why) if why.contains("sslmode")), "{error}");
}

#[tokio::test]
async fn nats_is_verified() {
    let certificates = Certificates::new("nats");
    let server = nats::start(&format!(
        "authorization {{ user: ann, password: secret }}\ntls {{ cert_file: \"{}\", key_file: \"{}\" }}",
        certificates.file("cert.pem"),
        certificates.file("key.pem"),
    ));
    is_verified(&certificates, |host, options| format!("tls://ann:secret@{host}:{}?{options}", server.port)).await;
    let without = format!("nats://ann:secret@127.0.0.1:{}?ca={}", server.port, certificates.file("ca.pem"));
    let Err(error) = Engines::open(without.as_str()).await else { panic!("an authority needs TLS") };
    assert!(matches!(&error, BackendError::Invalid(why) if why.contains("tls://")), "{error}");
}
