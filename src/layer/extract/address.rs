use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use http::Extensions;
use ipnet::IpNet;

use super::forwarded::{Hops, List};
use crate::layer::RequestHead;
use crate::layer::error::LayerError;
use crate::layer::layer::refuse;

pub(crate) type AddressHook = Arc<dyn Fn(&Extensions) -> Option<SocketAddr> + Send + Sync>;

/// Where the address of the client comes from: the connection, and what trusted proxies in front
/// say.
///
/// The address of the connection is what the server left in an extension of the request. Where it
/// belongs to a network that is [trusted](Self::trust), the last address of `x-forwarded-for` is
/// that of the hop before, and so on from the right, as long as the hops are trusted: the first
/// one that is not is the client. What stands further left was written by it, and is not looked
/// at. Where a trusted hop says something that is no address, as `unknown`, that hop's own address
/// counts. Without an address of the connection nothing is believed, and there is none.
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
}

impl ClientAddress {
    /// The address of the connection, from the extension that has it; no proxy is trusted.
    #[must_use]
    pub fn of<T>(read: impl Fn(&T) -> Option<SocketAddr> + Send + Sync + 'static) -> Self
    where
        T: Send + Sync + 'static,
    {
        Self {
            peer: Arc::new(move |extensions| read(extensions.get::<T>()?)),
            trusted: Vec::new(),
            list: List::XForwardedFor,
        }
    }

    /// Trusts the proxies of a network, `10.0.0.0/8`, or a single one, `2001:db8::1`.
    ///
    /// # Panics
    ///
    /// If this is neither; [`try_trust`](Self::try_trust) returns that as an error.
    #[must_use]
    #[track_caller]
    pub fn trust(self, network: impl AsRef<str>) -> Self {
        refuse(self.try_trust(network))
    }

    /// Like [`trust`](Self::trust) for networks from a configuration.
    ///
    /// # Errors
    ///
    /// If this is neither a network nor an address.
    pub fn try_trust(mut self, network: impl AsRef<str>) -> Result<Self, LayerError> {
        let text = network.as_ref().trim();
        let network = text.parse::<IpNet>().ok();
        let network = network.or_else(|| Some(text.parse::<IpAddr>().ok()?.into()));
        let network = network.ok_or_else(|| LayerError::invalid_network(text.to_owned()))?;
        self.trusted.push(network);
        Ok(self)
    }

    /// Reads the `for` of `forwarded` (RFC 7239) in place of `x-forwarded-for`.
    ///
    /// Only one of the two is ever read: a proxy that writes the one passes on what a client wrote
    /// in the other.
    #[must_use]
    pub const fn forwarded(mut self) -> Self {
        self.list = List::Forwarded;
        self
    }

    /// The address of the client, IPv4 in its own form; `None` where the connection's is not known.
    #[must_use]
    pub fn ip(&self, head: RequestHead<'_>) -> Option<IpAddr> {
        self.socket(head).map(|address| address.ip())
    }

    /// With the port, 0 where it is not known.
    pub(crate) fn socket(&self, head: RequestHead<'_>) -> Option<SocketAddr> {
        let mut client = canonical((self.peer)(head.extensions())?);
        // From the right: each is the word of the hop before.
        let mut hops = Hops::new(head.headers(), self.list);
        while self.trusts(client.ip()) {
            match hops.next() {
                Some(Some(hop)) => client = canonical(hop),
                Some(None) | None => break,
            }
        }
        Some(client)
    }

    fn trusts(&self, ip: IpAddr) -> bool {
        self.trusted.iter().any(|network| network.contains(&ip))
    }
}

/// IPv4 that came through a socket of IPv6 would be in no network.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

impl fmt::Debug for ClientAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientAddress")
            .field("trusted", &self.trusted)
            .field("list", &self.list)
            .finish_non_exhaustive()
    }
}

/// Reads the [address of the client](ClientAddress) as text; empty where it is not known.
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
    move |head: RequestHead<'_>| {
        let ip = address.ip(head);
        ip.map_or(Cow::Borrowed(""), |ip| Cow::Owned(ip.to_string()))
    }
}
