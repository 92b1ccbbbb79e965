//! Finds the address of a request's client behind trusted proxies.

use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use http::Extensions;
use ipnet::{IpNet, Ipv4Net};

use super::forwarded::{ProxyHeader, ProxyHop, ProxyHops};
use crate::layer::error::{LayerError, unwrap_or_panic};
use crate::layer::head::RequestHead;

/// Reads the address of one end of the connection from the extensions of a request.
pub(crate) type AddressHook = Arc<dyn Fn(&Extensions) -> Option<SocketAddr> + Send + Sync>;

/// The length of the IPv6 prefix that one customer usually has (RFC 6177 and RIPE-690 name /56 and
/// /64).
const DEFAULT_IPV6_PREFIX: u8 = 64;

/// The key of requests for which a trusted proxy reports an unreadable client address.
const UNKNOWN: &str = "unknown";

/// Finds the address of a request's client: that of the connection, or the one that trusted
/// proxies report.
///
/// The server stores the address of the connection in a request extension. If that address belongs
/// to a [trusted](Self::trust) network, the rightmost element of `x-forwarded-for` is the address
/// of the previous hop, and so on from right to left while the hops are trusted. The first hop that
/// is not trusted is the client. Elements further left were written by the client and are not
/// read. If the address of the connection is unknown, the headers are ignored and no address is
/// found.
///
/// The list is read byte by byte from the right, over all lines of the header. Commas inside quoted
/// strings do not separate elements. An address with a missing, obfuscated (RFC 7239 section 6.3)
/// or invalid port is valid. An element without a readable address, such as `unknown`, ends the
/// search: [`client_ip`] then returns `unknown`, and [`ip`](Self::ip) returns `None`. Empty
/// elements at the left end of the list are ignored. IPv4-mapped IPv6 addresses count as IPv4.
///
/// ```
/// use std::net::SocketAddr;
///
/// use axum::extract::ConnectInfo;
/// use tower_aperture::layer::{ClientAddress, RequestHead};
///
/// let address = ClientAddress::of(|ConnectInfo(peer): &ConnectInfo<SocketAddr>| Some(*peer))
///     .trust("10.0.0.0/8");
///
/// let request = http::Request::get("/")
///     .header("x-forwarded-for", "6.6.6.6, 192.0.2.7, 10.0.0.2")
///     .extension(ConnectInfo(SocketAddr::from(([10, 0, 0, 1], 443))))
///     .body(())?;
/// let found = address.ip(RequestHead::new(&request)).unwrap();
/// assert_eq!(found.to_string(), "192.0.2.7");
/// # Ok::<(), http::Error>(())
/// ```
///
/// tonic stores a `TcpConnectInfo`: `ClientAddress::of(TcpConnectInfo::remote_addr)`.
#[derive(Clone)]
pub struct ClientAddress {
    peer: AddressHook,
    trusted: Vec<IpNet>,
    header: ProxyHeader,
    ipv6_prefix: u8,
}

/// The result of the search for a client's address.
enum ClientLookup {
    /// The address of the connection is unknown.
    NoConnection,
    /// A trusted proxy reported an address that cannot be read.
    Unreadable,
    /// The address of the client, with port 0 if the port is unknown.
    Found(SocketAddr),
}

impl ClientAddress {
    /// Returns a reader that takes the address of the connection from the request extension `T`,
    /// and trusts no proxies.
    #[must_use]
    pub fn of<T>(read: impl Fn(&T) -> Option<SocketAddr> + Send + Sync + 'static) -> Self
    where
        T: Send + Sync + 'static,
    {
        Self {
            peer: Arc::new(move |extensions| read(extensions.get::<T>()?)),
            trusted: Vec::new(),
            header: ProxyHeader::XForwardedFor,
            ipv6_prefix: DEFAULT_IPV6_PREFIX,
        }
    }

    /// Trusts the proxies of a network, such as `10.0.0.0/8`, or one proxy, such as `2001:db8::1`.
    ///
    /// An IPv4-mapped network, such as `::ffff:10.0.0.0/104`, counts as the IPv4 network.
    ///
    /// # Panics
    ///
    /// If the text is neither a network nor an address; [`try_trust`](Self::try_trust) returns an
    /// error instead.
    #[must_use]
    #[track_caller]
    pub fn trust(self, network: impl AsRef<str>) -> Self {
        unwrap_or_panic(self.try_trust(network))
    }

    /// Like [`trust`](Self::trust), for a network or proxy from a configuration.
    ///
    /// # Errors
    ///
    /// If the text is neither a network nor an address.
    pub fn try_trust(mut self, network: impl AsRef<str>) -> Result<Self, LayerError> {
        let text = network.as_ref().trim();
        let network = text.parse::<IpNet>().ok();
        let network = network.or_else(|| Some(text.parse::<IpAddr>().ok()?.into()));
        let network = network.ok_or_else(|| LayerError::invalid_network(text.to_owned()))?;
        self.trusted.push(canonical_network(network));
        Ok(self)
    }

    /// Reads the `for` parameters of `forwarded` (RFC 7239) instead of `x-forwarded-for`.
    ///
    /// Only one of the two headers is read, because a proxy that writes one of them forwards the
    /// other as the client sent it.
    #[must_use]
    pub const fn forwarded(mut self) -> Self {
        self.header = ProxyHeader::Forwarded;
        self
    }

    /// Sets the number of leading bits by which [`client_ip`] groups IPv6 addresses: 64 by default,
    /// and 128 or more for exact addresses. [`ip`](Self::ip) always returns the exact address.
    ///
    /// A customer usually has a /64 or more. A limit by exact IPv6 address gives each customer 2^64
    /// keys.
    ///
    /// ```
    /// use std::net::SocketAddr;
    /// use tower_aperture::layer::{ClientAddress, RequestHead, client_ip};
    ///
    /// let peer = ClientAddress::of(|peer: &SocketAddr| Some(*peer));
    /// let mut request = http::Request::new(());
    /// request.extensions_mut().insert(SocketAddr::from(([0x2001, 0xdb8, 1, 2, 3, 4, 5, 6], 443)));
    ///
    /// let read = client_ip(peer.clone());
    /// assert_eq!(read(RequestHead::new(&request)), "2001:db8:1:2::/64");
    /// let read = client_ip(peer.ipv6_prefix(128));
    /// assert_eq!(read(RequestHead::new(&request)), "2001:db8:1:2:3:4:5:6");
    /// ```
    #[must_use]
    pub const fn ipv6_prefix(mut self, bits: u8) -> Self {
        self.ipv6_prefix = if bits < 128 { bits } else { 128 };
        self
    }

    /// Returns the exact address of the client. IPv4-mapped addresses are returned as IPv4.
    ///
    /// Returns `None` if the address of the connection is unknown, or if a trusted proxy reports an
    /// address that cannot be read.
    #[must_use]
    pub fn ip(&self, head: RequestHead<'_>) -> Option<IpAddr> {
        match self.find(head) {
            ClientLookup::Found(address) => Some(address.ip()),
            ClientLookup::NoConnection | ClientLookup::Unreadable => None,
        }
    }

    /// Returns the address with its port, which is 0 if unknown. An unreadable client address
    /// becomes 0.0.0.0, so that all such clients share one key instead of having none.
    pub(crate) fn socket(&self, head: RequestHead<'_>) -> Option<SocketAddr> {
        match self.find(head) {
            ClientLookup::Found(address) => Some(address),
            ClientLookup::Unreadable => Some((Ipv4Addr::UNSPECIFIED, 0).into()),
            ClientLookup::NoConnection => None,
        }
    }

    fn find(&self, head: RequestHead<'_>) -> ClientLookup {
        let Some(peer) = (self.peer)(head.extensions()) else {
            return ClientLookup::NoConnection;
        };
        let mut client = canonical(peer);
        // Each element was written by the hop to its right. The number of trusted hops is only
        // bounded by the length of the header.
        let mut hops = ProxyHops::new(head.headers(), self.header);
        while self.trusts(client.ip()) {
            match hops.next() {
                Some(ProxyHop::Address(hop)) => client = canonical(hop),
                Some(ProxyHop::Unreadable) => return ClientLookup::Unreadable,
                None => break,
            }
        }
        ClientLookup::Found(client)
    }

    fn trusts(&self, ip: IpAddr) -> bool {
        self.trusted.iter().any(|network| network.contains(&ip))
    }
}

/// Converts IPv4-mapped addresses, which dual-stack sockets report, to IPv4.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Converts IPv4-mapped networks to IPv4, because canonical addresses are never in a mapped
/// network.
fn canonical_network(network: IpNet) -> IpNet {
    const MAPPED_BITS: u8 = 96;
    let IpNet::V6(mapped) = network else {
        return network;
    };
    let bits = mapped.prefix_len().checked_sub(MAPPED_BITS);
    let ipv4 = mapped.addr().to_ipv4_mapped().zip(bits);
    // `bits` is at most 128 - 96, the length of an IPv4 address.
    let ipv4 = ipv4.and_then(|(ip, bits)| Ipv4Net::new(ip, bits).ok());
    ipv4.map_or(network, IpNet::V4)
}

/// Formats an address as a key, IPv6 addresses as their network.
fn key(ip: IpAddr, ipv6_prefix: u8) -> String {
    match ip {
        IpAddr::V6(ip) if ipv6_prefix < 128 => {
            let bits = u128::from(ip) & !(u128::MAX >> ipv6_prefix);
            format!("{}/{ipv6_prefix}", Ipv6Addr::from(bits))
        }
        ip => ip.to_string(),
    }
}

impl fmt::Debug for ClientAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientAddress")
            .field("trusted", &self.trusted)
            .field("header", &self.header)
            .field("ipv6_prefix", &self.ipv6_prefix)
            .finish_non_exhaustive()
    }
}

/// Returns a reader of the [client's address](ClientAddress) as a key.
///
/// IPv4 addresses are exact, and IPv6 addresses are grouped by their
/// [/64 network](ClientAddress::ipv6_prefix). The key is `unknown` if a trusted proxy reports an
/// address that cannot be read, and empty if the address of the connection is unknown.
///
/// ```
/// # let client = tower_aperture::ApertureClient::disabled();
/// use std::net::SocketAddr;
///
/// use axum::extract::ConnectInfo;
/// use tower_aperture::ApertureLayer;
/// use tower_aperture::layer::{ClientAddress, client_ip};
///
/// let peer = ClientAddress::of(|ConnectInfo(peer): &ConnectInfo<SocketAddr>| Some(*peer));
/// let layer = ApertureLayer::new(client, "checkout")
///     .label_from("ip", client_ip(peer.trust("10.0.0.0/8").trust("fd00::/8")));
/// # let _ = layer;
/// ```
pub fn client_ip(
    address: ClientAddress,
) -> impl for<'h> Fn(RequestHead<'h>) -> Cow<'h, str> + Clone + Send + Sync + 'static {
    move |head: RequestHead<'_>| match address.find(head) {
        ClientLookup::Found(found) => Cow::Owned(key(found.ip(), address.ipv6_prefix)),
        ClientLookup::Unreadable => Cow::Borrowed(UNKNOWN),
        ClientLookup::NoConnection => Cow::Borrowed(""),
    }
}
