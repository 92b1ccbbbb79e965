//! The address of a request's client, behind trusted proxies.

use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use http::Extensions;
use ipnet::{IpNet, Ipv4Net};

use super::forwarded::{Hop, Hops, List};
use crate::layer::RequestHead;
use crate::layer::error::LayerError;
use crate::layer::layer::unwrap_or_panic;

pub(crate) type AddressHook = Arc<dyn Fn(&Extensions) -> Option<SocketAddr> + Send + Sync>;

/// The IPv6 prefix that one customer usually has (RFC 6177 and RIPE-690 name /56 and /64).
const GROUP_PREFIX: u8 = 64;

/// The key of requests whose proxies name a client that cannot be read.
const UNKNOWN: &str = "unknown";

/// Finds the address of a request's client: that of the connection, or the one that trusted
/// proxies in front report.
///
/// The server leaves the address of the connection in a request extension. If that address belongs
/// to a [trusted](Self::trust) network, the rightmost element of `x-forwarded-for` is the address
/// of the hop before, and so on from right to left while the hops are trusted. The first hop that
/// is not trusted is the client. What stands further left was written by the client and is not
/// read. Without an address of the connection no header is believed and there is no address.
///
/// The list is read byte by byte from the right, over all lines of the header, and commas inside
/// quoted strings separate nothing. A port that is missing, obfuscated (RFC 7239 section 6.3) or
/// impossible leaves the address valid. An element without a readable address, such as `unknown`,
/// ends the search: [`client_ip`] then reads `unknown`, and [`ip`](Self::ip) finds nothing. Empty
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
/// tonic leaves its `TcpConnectInfo`: `ClientAddress::of(TcpConnectInfo::remote_addr)`.
#[derive(Clone)]
pub struct ClientAddress {
    peer: AddressHook,
    trusted: Vec<IpNet>,
    list: List,
    ipv6_prefix: u8,
}

/// The result of a search for the client.
enum Client {
    /// The address of the connection is not known.
    NoConnection,
    /// A trusted proxy named a client that cannot be read.
    Unreadable,
    /// The port is 0 where it is not known.
    At(SocketAddr),
}

impl ClientAddress {
    /// Reads the address of the connection from the request extension `T`; trusts no proxy.
    #[must_use]
    pub fn of<T>(read: impl Fn(&T) -> Option<SocketAddr> + Send + Sync + 'static) -> Self
    where
        T: Send + Sync + 'static,
    {
        Self {
            peer: Arc::new(move |extensions| read(extensions.get::<T>()?)),
            trusted: Vec::new(),
            list: List::XForwardedFor,
            ipv6_prefix: GROUP_PREFIX,
        }
    }

    /// Trusts the proxies of a network, `10.0.0.0/8`, or a single proxy, `2001:db8::1`.
    ///
    /// An IPv4-mapped network, `::ffff:10.0.0.0/104`, is the IPv4 network.
    ///
    /// # Panics
    ///
    /// If the text is neither a network nor an address; [`try_trust`](Self::try_trust) returns
    /// that as an error.
    #[must_use]
    #[track_caller]
    pub fn trust(self, network: impl AsRef<str>) -> Self {
        unwrap_or_panic(self.try_trust(network))
    }

    /// Trusts a network or proxy from a configuration; see [`trust`](Self::trust).
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
    /// Only one of the two headers is read: a proxy that writes one passes on what a client wrote
    /// in the other.
    #[must_use]
    pub const fn forwarded(mut self) -> Self {
        self.list = List::Forwarded;
        self
    }

    /// Sets by how many leading bits [`client_ip`] groups IPv6 addresses; 64 by default, 128 or
    /// more for each address on its own. [`ip`](Self::ip) stays exact.
    ///
    /// A customer usually has a whole /64 or more. A limit by exact IPv6 address gives each
    /// customer 2^64 keys.
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

    /// Returns the exact address of the client, IPv4 in its own form.
    ///
    /// `None` if the address of the connection is not known, or if a trusted proxy named a client
    /// that cannot be read.
    #[must_use]
    pub fn ip(&self, head: RequestHead<'_>) -> Option<IpAddr> {
        match self.find(head) {
            Client::At(address) => Some(address.ip()),
            Client::NoConnection | Client::Unreadable => None,
        }
    }

    /// Returns the address with its port, 0 where it is not known. A client that cannot be read is
    /// 0.0.0.0, so that all such clients share one key and none goes without.
    pub(crate) fn socket(&self, head: RequestHead<'_>) -> Option<SocketAddr> {
        match self.find(head) {
            Client::At(address) => Some(address),
            Client::Unreadable => Some((Ipv4Addr::UNSPECIFIED, 0).into()),
            Client::NoConnection => None,
        }
    }

    fn find(&self, head: RequestHead<'_>) -> Client {
        let Some(peer) = (self.peer)(head.extensions()) else {
            return Client::NoConnection;
        };
        let mut client = canonical(peer);
        // Each element is the word of the hop to its right. As many as the header has.
        let mut hops = Hops::new(head.headers(), self.list);
        while self.trusts(client.ip()) {
            match hops.next() {
                Some(Hop::At(hop)) => client = canonical(hop),
                Some(Hop::Unreadable) => return Client::Unreadable,
                None => break,
            }
        }
        Client::At(client)
    }

    fn trusts(&self, ip: IpAddr) -> bool {
        self.trusted.iter().any(|network| network.contains(&ip))
    }
}

/// Turns IPv4-mapped addresses into IPv4, as dual-stack sockets report them.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Turns IPv4-mapped networks into IPv4: canonical addresses are in no other.
fn canonical_network(network: IpNet) -> IpNet {
    const MAPPED_BITS: u8 = 96;
    let IpNet::V6(mapped) = network else {
        return network;
    };
    let bits = mapped.prefix_len().checked_sub(MAPPED_BITS);
    let ipv4 = mapped.addr().to_ipv4_mapped().zip(bits);
    // At most 128 - 96 bits are left, which IPv4 has.
    let ipv4 = ipv4.and_then(|(ip, bits)| Ipv4Net::new(ip, bits).ok());
    ipv4.map_or(network, IpNet::V4)
}

/// Writes an address as a key, IPv6 as its network.
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
            .field("list", &self.list)
            .field("ipv6_prefix", &self.ipv6_prefix)
            .finish_non_exhaustive()
    }
}

/// Reads the [address of the client](ClientAddress) as a key: IPv4 as it is, IPv6 as its
/// [/64 network](ClientAddress::ipv6_prefix), and `unknown` where a trusted proxy named a client
/// that cannot be read. Empty if the address of the connection is not known.
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
        Client::At(found) => Cow::Owned(key(found.ip(), address.ipv6_prefix)),
        Client::Unreadable => Cow::Borrowed(UNKNOWN),
        Client::NoConnection => Cow::Borrowed(""),
    }
}
