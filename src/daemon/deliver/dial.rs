//! Connections to receivers: direct, through a proxy, to a Unix socket, with and without TLS.
//!
//! Owns whom a connection may lead to and whose certificates are believed. An address is checked when it is about to be
//! connected to, so a name that means something else by then cannot slip through. A proxy resolves names by itself;
//! there only an address in the URL can be checked.

use std::error::Error as StdError;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::Uri;
use hyper::header::HeaderValue;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_rustls::{ConfigBuilderExt, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::client::proxy::matcher::Matcher;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use thiserror::Error;
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tower_service::Service;

use crate::config::target::{Place, Target, literal, place};
use crate::limits;

/// Sends requests; keeps connections that may be used again.
pub(super) type Sender = Client<HttpsConnector<Dial>, Full<Bytes>>;

/// Of several addresses of a host, each but the last has so long to answer.
const NEXT_ADDRESS_AFTER: Duration = Duration::from_millis(1_500);
/// A connection that nobody used for so long is closed.
const IDLE_MAX: Duration = Duration::from_secs(5);

/// Makes connections to one endpoint.
#[derive(Clone)]
pub(crate) struct Dial {
    socket: Option<Arc<Path>>,
    /// Whether it may lead to this host and its networks.
    private: bool,
    proxies: Arc<Matcher>,
    /// One name is looked up at a time: a lookup that hangs keeps a thread.
    lookups: Arc<Semaphore>,
}

/// Why there is no connection. No URL is in it.
#[derive(Debug, Error)]
enum DialError {
    #[error("connect to {at}: {source}")]
    Connect { at: String, source: io::Error },
    #[error("connect to {0}: no answer within {wait} s", wait = limits::WEBHOOK_CONNECT_TIMEOUT.as_secs())]
    Silent(String),
    #[error("look up {host}: {source}")]
    Lookup { host: String, source: io::Error },
    #[error("{host} has no address")]
    NoAddress { host: String },
    #[error("{0} is an address of a cloud's metadata service, which is never sent anything")]
    Metadata(String),
    #[error(
        "{0} is an address of this host or its networks; a URL that a launch names may not lead there (notify_allow_private allows it)"
    )]
    Private(String),
    #[error("the URL names no host")]
    NoHost,
    #[error("the proxy {0} is neither http:// nor a host; others are not supported")]
    ProxyKind(String),
    #[error("the proxy {at}: {source}")]
    Proxy { at: String, source: Box<dyn StdError + Send + Sync> },
}

/// What this file says of a connection that could not be made, when that is the cause.
pub(super) fn own_words(cause: &(dyn StdError + 'static)) -> Option<String> {
    cause.downcast_ref::<DialError>().map(ToString::to_string)
}

/// Why there is no sender.
#[derive(Debug, Error)]
pub(super) enum TrustError {
    #[error("read the system's certificates: {0}")]
    System(io::Error),
    #[error("read the certificates in {path}: {source}", path = path.display())]
    File { path: PathBuf, source: rustls::pki_types::pem::Error },
    #[error("{path} holds no certificate", path = path.display())]
    Empty { path: PathBuf },
    #[error("use a certificate in {path}: {source}", path = path.display())]
    Certificate { path: PathBuf, source: rustls::Error },
    #[error("set up TLS: {0}")]
    Tls(#[from] rustls::Error),
}

impl Dial {
    /// `private`: whether connections may lead to this host and its networks.
    pub(super) fn new(target: Option<&Target>, private: bool, proxies: Arc<Matcher>) -> Self {
        let socket = target.and_then(Target::socket).map(Arc::from);
        Self { socket, private, proxies, lookups: Arc::new(Semaphore::new(1)) }
    }

    /// What a proxy that forwards plain requests wants to see in each of them.
    pub(super) fn proxy_authorization(&self, uri: &Uri) -> Option<HeaderValue> {
        let through = self.proxy_for(uri).filter(|_| uri.scheme_str() == Some("http"))?;
        through.basic_auth().cloned()
    }

    /// The proxy of the environment, if one is meant for this URL. As everywhere but in curl, this host itself is
    /// never reached through one.
    fn proxy_for(&self, uri: &Uri) -> Option<hyper_util::client::proxy::matcher::Intercept> {
        let host = uri.host()?;
        let local = host == "localhost"
            || host.ends_with(".localhost")
            || literal(host).is_some_and(|address| address.is_loopback());
        if self.socket.is_some() || local { None } else { self.proxies.intercept(uri) }
    }

    async fn connect(self, uri: Uri) -> Result<Stream, DialError> {
        if let Some(socket) = &self.socket {
            let failed = |source| DialError::Connect { at: socket.display().to_string(), source };
            let stream = UnixStream::connect(socket).await.map_err(failed)?;
            return Ok(Stream { io: Io::Unix(TokioIo::new(stream)), proxied: false });
        }
        let host = uri.host().ok_or(DialError::NoHost)?;
        let Some(proxy) = self.proxy_for(&uri) else {
            let stream = self.reach(host, port_of(&uri), true).await?;
            return Ok(Stream { io: Io::Tcp(TokioIo::new(stream)), proxied: false });
        };
        if let Some(address) = literal(host) {
            self.check(SocketAddr::new(address, port_of(&uri)))?;
        }
        self.through(proxy.uri(), proxy.basic_auth(), uri.clone()).await
    }

    /// A plain request is given to the proxy; for TLS it makes a tunnel.
    async fn through(
        &self,
        proxy: &Uri,
        authorization: Option<&HeaderValue>,
        uri: Uri,
    ) -> Result<Stream, DialError> {
        let at = proxy.authority().map(|authority| {
            let whole = authority.as_str();
            whole.rsplit_once('@').map_or(whole, |(_, place)| place).to_owned()
        });
        let at = at.unwrap_or_default();
        if proxy.scheme_str() != Some("http") {
            return Err(DialError::ProxyKind(at));
        }
        let to_proxy = ToProxy(self.clone());
        if uri.scheme_str() == Some("http") {
            let mut stream = to_proxy.reach(proxy.clone()).await?;
            stream.proxied = true;
            return Ok(stream);
        }
        let mut tunnel = Tunnel::new(proxy.clone(), to_proxy);
        if let Some(authorization) = authorization {
            tunnel = tunnel.with_auth(authorization.clone());
        }
        tunnel.call(uri).await.map_err(|error| DialError::Proxy { at, source: error.into() })
    }

    /// A connection to the first address of a host that answers.
    async fn reach(&self, host: &str, port: u16, checked: bool) -> Result<TcpStream, DialError> {
        let named = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let (mut refused, mut failed) = (None, None);
        let mut allowed = Vec::new();
        for address in self.look_up(&named, port).await? {
            match if checked { self.check(address) } else { Ok(()) } {
                Ok(()) => allowed.push(address),
                Err(why) => refused = Some(why),
            }
        }
        for (at, address) in allowed.iter().enumerate() {
            let last = at + 1 == allowed.len();
            let patience = if last { limits::WEBHOOK_CONNECT_TIMEOUT } else { NEXT_ADDRESS_AFTER };
            match timeout(patience, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => {
                    // A request is one write; waiting to fill a packet helps nobody. If it cannot be set, it is slower.
                    let _slower = stream.set_nodelay(true);
                    return Ok(stream);
                }
                Ok(Err(source)) => failed = Some(DialError::Connect { at: address.to_string(), source }),
                Err(_) => failed = Some(DialError::Silent(address.to_string())),
            }
        }
        Err(failed.or(refused).unwrap_or(DialError::NoAddress { host: named }))
    }

    async fn look_up(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, DialError> {
        if let Ok(address) = host.parse() {
            return Ok(vec![SocketAddr::new(address, port)]);
        }
        let failed = |source| DialError::Lookup { host: host.to_owned(), source };
        let place = Arc::clone(&self.lookups).acquire_owned().await;
        let place = place.map_err(|closed| failed(io::Error::other(closed)))?;
        let name = host.to_owned();
        let found = spawn_blocking(move || {
            let found = (name.as_str(), port).to_socket_addrs().map(Iterator::collect);
            drop(place);
            found
        });
        found.await.map_err(|panicked| failed(io::Error::other(panicked)))?.map_err(failed)
    }

    fn check(&self, address: SocketAddr) -> Result<(), DialError> {
        match place(address.ip()) {
            Place::Metadata => Err(DialError::Metadata(address.ip().to_string())),
            Place::Private if !self.private => Err(DialError::Private(address.ip().to_string())),
            Place::Private | Place::Public => Ok(()),
        }
    }
}

fn port_of(uri: &Uri) -> u16 {
    let usual = if uri.scheme_str() == Some("https") { 443 } else { 80 };
    uri.port_u16().unwrap_or(usual)
}

type Dialing<E> = Pin<Box<dyn Future<Output = Result<Stream, E>> + Send>>;

impl Service<Uri> for Dial {
    type Response = Stream;
    type Error = Box<dyn StdError + Send + Sync>;
    type Future = Dialing<Self::Error>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connecting = self.clone().connect(uri);
        Box::pin(async move { connecting.await.map_err(Into::into) })
    }
}

/// Connects to the proxy itself: whoever set the environment chose it, so its address is not checked.
#[derive(Clone)]
struct ToProxy(Dial);

impl ToProxy {
    async fn reach(&self, proxy: Uri) -> Result<Stream, DialError> {
        let host = proxy.host().ok_or(DialError::NoHost)?;
        let stream = self.0.reach(host, port_of(&proxy), false).await?;
        Ok(Stream { io: Io::Tcp(TokioIo::new(stream)), proxied: false })
    }
}

impl Service<Uri> for ToProxy {
    type Response = Stream;
    type Error = DialError;
    type Future = Dialing<DialError>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), DialError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, proxy: Uri) -> Self::Future {
        let this = self.clone();
        Box::pin(async move { this.reach(proxy).await })
    }
}

/// A connection, below TLS.
pub(crate) struct Stream {
    io: Io,
    /// Requests on it name the whole URL.
    proxied: bool,
}

enum Io {
    Tcp(TokioIo<TcpStream>),
    Unix(TokioIo<UnixStream>),
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        Connected::new().proxy(self.proxied)
    }
}

impl Read for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Tcp(io) => Pin::new(io).poll_read(cx, buf),
            Io::Unix(io) => Pin::new(io).poll_read(cx, buf),
        }
    }
}

impl Write for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.io {
            Io::Tcp(io) => Pin::new(io).poll_write(cx, buf),
            Io::Unix(io) => Pin::new(io).poll_write(cx, buf),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Tcp(io) => Pin::new(io).poll_flush(cx),
            Io::Unix(io) => Pin::new(io).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Tcp(io) => Pin::new(io).poll_shutdown(cx),
            Io::Unix(io) => Pin::new(io).poll_shutdown(cx),
        }
    }
}

/// A client that makes its connections so.
pub(super) fn sender(dial: Dial, trust: ClientConfig) -> Sender {
    let https = HttpsConnectorBuilder::new()
        .with_tls_config(trust)
        .https_or_http()
        .enable_http1()
        .wrap_connector(dial);
    Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE_MAX)
        .pool_max_idle_per_host(crate::core::outbox::CONCURRENT_ATTEMPTS_MAX)
        .http1_max_buf_size(limits::HEAD_BYTES_MAX)
        .build(https)
}

/// Nobody's certificates: for receivers without TLS.
pub(super) fn trust_nobody() -> Result<ClientConfig, TrustError> {
    Ok(versions()?.with_root_certificates(RootCertStore::empty()).with_no_client_auth())
}

/// The system's certificates; `SSL_CERT_FILE` and `SSL_CERT_DIR` name others.
pub(super) fn trust_system() -> Result<ClientConfig, TrustError> {
    Ok(versions()?.with_native_roots().map_err(TrustError::System)?.with_no_client_auth())
}

/// The certificates in a PEM file, and no others.
pub(super) fn trust_file(path: &Path) -> Result<ClientConfig, TrustError> {
    let unread = |source| TrustError::File { path: path.to_owned(), source };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path).map_err(unread)? {
        let refused = |source| TrustError::Certificate { path: path.to_owned(), source };
        roots.add(certificate.map_err(unread)?).map_err(refused)?;
    }
    if roots.is_empty() {
        return Err(TrustError::Empty { path: path.to_owned() });
    }
    Ok(versions()?.with_root_certificates(roots).with_no_client_auth())
}

/// TLS 1.2 and 1.3.
fn versions() -> Result<rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier>, TrustError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    Ok(ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?)
}
