//! Where a webhook is sent: a URL taken apart, and which addresses it may lead to.
//!
//! Owns the reading of URLs and the classes of addresses. Refuses to resolve names: what a name means is only known
//! when a connection is made, so the connector asks here again, with the address that it is about to use.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use hyper::Uri;

use crate::limits;

/// A receiver's place. Path and query of a URL may carry a token, so `Debug` and [`Target::shown`] leave them out.
#[derive(Clone, PartialEq, Eq)]
pub struct Target {
    uri: Uri,
    socket: Option<PathBuf>,
}

/// What kind of place an address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    Public,
    /// Of this host, its networks, or no single host.
    Private,
    /// Where clouds hand out credentials to whoever asks.
    Metadata,
}

impl Target {
    /// Reads `http://`, `https://` or `unix:/socket[:/path]`. The error is for people, and repeats no token.
    pub fn parse(text: &str) -> Result<Self, String> {
        if let Some(rest) = text.strip_prefix("unix:") {
            return Self::parse_unix(rest);
        }
        let uri: Uri = text.parse().map_err(|error| format!("this is no URL: {error}"))?;
        let (Some("http" | "https"), Some(host)) = (uri.scheme_str(), uri.host()) else {
            return Err("this is no http:// or https:// URL, and no unix:/path of a socket".to_owned());
        };
        if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
            return Err("a user and password in the URL are not supported; sign with a secret instead".into());
        }
        if literal(host).is_some_and(|address| place(address) == Place::Metadata) {
            return Err(format!(
                "{host} is an address of a cloud's metadata service, which is never sent anything"
            ));
        }
        Ok(Self { uri, socket: None })
    }

    fn parse_unix(rest: &str) -> Result<Self, String> {
        let (socket, path) = match rest.split_once(":/") {
            Some((socket, path)) => (socket, format!("/{path}")),
            None => (rest, "/".to_owned()),
        };
        if !socket.starts_with('/') {
            return Err(format!("unix:{socket} is no absolute path of a socket"));
        }
        if socket.len() >= limits::SOCKET_PATH_BYTES_MAX {
            return Err(format!(
                "the path of the socket is longer than {} bytes",
                limits::SOCKET_PATH_BYTES_MAX - 1
            ));
        }
        let uri = Uri::builder().scheme("http").authority("localhost").path_and_query(path).build();
        let uri = uri.map_err(|error| format!("what follows the socket is no path of a URL: {error}"))?;
        Ok(Self { uri, socket: Some(socket.into()) })
    }

    /// What a request names; for a socket, with `localhost` as its host.
    pub fn uri(&self) -> &Uri {
        &self.uri
    }

    /// The socket to connect to, where it is one.
    pub fn socket(&self) -> Option<&Path> {
        self.socket.as_deref()
    }

    /// Whether the connection itself keeps what is sent from others' eyes.
    pub fn is_https(&self) -> bool {
        self.uri.scheme_str() == Some("https")
    }

    /// For people: without path and query.
    pub fn shown(&self) -> String {
        match (&self.socket, self.uri.scheme_str(), self.uri.authority()) {
            (Some(socket), ..) => format!("unix:{}", socket.display()),
            (None, Some(scheme), Some(authority)) => format!("{scheme}://{authority}"),
            (None, ..) => String::new(),
        }
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown())
    }
}

/// A host that is an address, with or without the brackets of a URL.
pub fn literal(host: &str) -> Option<IpAddr> {
    host.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

/// The class of an address. An IPv4 address inside an IPv6 one counts as itself.
pub fn place(address: IpAddr) -> Place {
    match address {
        IpAddr::V4(address) => place_v4(address),
        IpAddr::V6(address) => embedded(address).map_or_else(|| place_v6(address), place_v4),
    }
}

fn place_v4(address: Ipv4Addr) -> Place {
    // Alibaba's metadata service lies in the shared range of carriers.
    if address.is_link_local() || address == Ipv4Addr::new(100, 100, 100, 200) {
        return Place::Metadata;
    }
    let private = match address.octets() {
        [0 | 10 | 127 | 224.., ..] | [192, 168, ..] | [192, 0, 0, _] => true,
        [172, second, ..] => (16..32).contains(&second),
        [100, second, ..] => (64..128).contains(&second),
        [198, second, ..] => (18..20).contains(&second),
        _ => false,
    };
    if private { Place::Private } else { Place::Public }
}

fn place_v6(address: Ipv6Addr) -> Place {
    let first = address.segments()[0];
    if first & 0xffc0 == 0xfe80 || address == Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254) {
        return Place::Metadata;
    }
    let private = address.is_unspecified()
        || address.is_loopback()
        || address.is_multicast()
        || first & 0xfe00 == 0xfc00
        || first & 0xffc0 == 0xfec0;
    if private { Place::Private } else { Place::Public }
}

/// Mapped and compatible addresses, NAT64's well-known prefix, and 6to4.
fn embedded(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let [a, b, c, d, e, f, g, h] = address.segments();
    let join = |high: u16, low: u16| Ipv4Addr::from((u32::from(high) << 16) | u32::from(low));
    match (a, b, c, d, e, f) {
        (0, 0, 0, 0, 0, 0xffff) | (0x64, 0xff9b, 0, 0, 0, 0) => Some(join(g, h)),
        (0, 0, 0, 0, 0, 0) if g != 0 => Some(join(g, h)),
        (0x2002, ..) => Some(join(b, c)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_have_classes_however_they_are_written() {
        let table = [
            (Place::Public, "1.1.1.1 93.184.216.34 172.32.0.1 100.128.0.1 2606:4700::1111 64:ff9b::1.1.1.1"),
            (Place::Private, "127.0.0.1 10.1.2.3 172.16.0.1 172.31.255.255 192.168.0.1 100.64.0.1 0.0.0.0"),
            (Place::Private, "224.0.0.1 255.255.255.255 198.18.0.1 ::1 :: fd00::1 fec0::1 ff02::1"),
            (Place::Private, "::ffff:10.0.0.1 ::127.0.0.1 64:ff9b::192.168.1.1 2002:7f00:1::"),
            (Place::Metadata, "169.254.169.254 169.254.170.2 100.100.100.200 fe80::1 fd00:ec2::254"),
            (Place::Metadata, "::ffff:169.254.169.254 64:ff9b::169.254.169.254 2002:a9fe:a9fe::"),
        ];
        for (expected, addresses) in table {
            for address in addresses.split(' ') {
                assert_eq!(place(address.parse().unwrap()), expected, "{address}");
            }
        }
    }

    #[test]
    fn a_target_is_a_url_or_a_socket_and_shows_no_token() {
        let web = Target::parse("https://hooks.example:8443/in/t0ken?k=v").unwrap();
        assert_eq!((web.shown().as_str(), web.socket()), ("https://hooks.example:8443", None));
        assert!(!format!("{web:?}").contains("t0ken"));
        let socket = Target::parse("unix:/run/in.sock:/hook?a=b").unwrap();
        assert_eq!(socket.socket(), Some(Path::new("/run/in.sock")));
        assert_eq!(socket.uri(), "http://localhost/hook?a=b");
        assert_eq!(Target::parse("unix:/run/in.sock").unwrap().uri(), "http://localhost/");
        let refused = [
            "ftp://x",
            "x",
            "http://",
            "http://user:pass@x/",
            "unix:relative",
            "unix:",
            "http://169.254.169.254/latest",
            "http://[fe80::1]/",
            "http://[::ffff:169.254.169.254]/",
        ];
        for text in refused {
            let why = Target::parse(text).expect_err(text);
            assert!(!why.contains("pass") || why.contains("user and password"), "{why}");
        }
        let long = format!("unix:/{}", "x".repeat(200));
        assert!(Target::parse(&long).unwrap_err().contains("longer than 107 bytes"));
    }
}
