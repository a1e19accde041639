//! A receiver behind TLS, and certificates of every kind for it.

use std::io::{self, BufReader, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::endpoint::{Received, read_request};

/// A certificate with its key.
pub(crate) struct Identity {
    certificate: CertificateDer<'static>,
    pub(crate) pem: String,
    key: PrivateKeyDer<'static>,
}

/// An authority of our own.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        Self(CertifiedIssuer::self_signed(params, key).expect("a certificate of the authority"))
    }

    pub(crate) fn pem(&self) -> String {
        self.0.pem()
    }

    /// For this host, until that year.
    pub(crate) fn certify(&self, host: &str, until: i32) -> Identity {
        let key = KeyPair::generate().expect("a key");
        let certificate = params(host, until).signed_by(&key, &self.0).expect("a signed certificate");
        Identity::of(&certificate, &key)
    }
}

impl Identity {
    pub(crate) fn self_signed(host: &str) -> Self {
        let key = KeyPair::generate().expect("a key");
        let certificate = params(host, 2099).self_signed(&key).expect("a self-signed certificate");
        Self::of(&certificate, &key)
    }

    fn of(certificate: &rcgen::Certificate, key: &KeyPair) -> Self {
        Self {
            certificate: certificate.der().clone(),
            pem: certificate.pem(),
            key: PrivateKeyDer::Pkcs8(key.serialize_der().into()),
        }
    }
}

fn params(host: &str, until: i32) -> CertificateParams {
    let mut params = CertificateParams::new(vec![host.to_owned()]).expect("a host name");
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(until, 1, 1);
    params
}

/// Answers 200 to whoever believes its certificate.
pub(crate) struct TlsEndpoint {
    listener: Arc<TcpListener>,
    port: u16,
    received: Arc<Mutex<Vec<Received>>>,
    connections: Arc<AtomicUsize>,
    acceptor: Option<JoinHandle<()>>,
}

impl TlsEndpoint {
    pub(crate) fn start(identity: Identity) -> Self {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![identity.certificate], identity.key)
            .expect("a certificate and its key");
        let listener = Arc::new(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port"));
        let port = listener.local_addr().expect("its address").port();
        let received = Arc::<Mutex<Vec<Received>>>::default();
        let connections = Arc::<AtomicUsize>::default();
        let (socket, all, config) = (Arc::clone(&listener), Arc::clone(&received), Arc::new(config));
        let count = Arc::clone(&connections);
        let acceptor = thread::spawn(move || {
            while let Ok((stream, _)) = socket.accept() {
                count.fetch_add(1, Ordering::Relaxed);
                let (all, config) = (Arc::clone(&all), Arc::clone(&config));
                // An error is a client that does not believe us, or went away.
                thread::spawn(move || drop(serve(stream, config, &all)));
            }
        });
        Self { listener, port, received, connections, acceptor: Some(acceptor) }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// How many connections were made so far.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    pub(crate) fn received(&self) -> Vec<Received> {
        self.received.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for TlsEndpoint {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ended_already = rustix::net::shutdown(&*self.listener, rustix::net::Shutdown::Both);
        if let Some(acceptor) = self.acceptor.take() {
            drop(acceptor.join());
        }
    }
}

fn serve(stream: TcpStream, config: Arc<ServerConfig>, all: &Mutex<Vec<Received>>) -> io::Result<()> {
    let connection = ServerConnection::new(config).map_err(io::Error::other)?;
    let mut input = BufReader::new(StreamOwned::new(connection, stream));
    while let Some(received) = read_request(&mut input)? {
        all.lock().unwrap_or_else(PoisonError::into_inner).push(received);
        input.get_mut().write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")?;
        input.get_mut().flush()?;
    }
    input.get_mut().sock.shutdown(Shutdown::Both)
}
