//! The settings of the connections to the Agents: TLS, keep-alive, their number.

use std::time::Duration;

use super::ApertureClientBuilder;
use crate::remote::KeepAlive;

impl ApertureClientBuilder {
    /// Sets whether to use plaintext instead of TLS, for Agents on the same host or in the same mesh.
    /// The default is `false`.
    pub fn insecure(mut self, insecure: bool) -> Self {
        self.insecure = Some(insecure);
        self
    }

    /// Trusts these PEM certificates instead of the system's roots.
    pub fn ca_certificate(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.ca = Some(pem.into());
        self
    }

    /// Sets the client certificate and its private key for mutual TLS; both are PEM.
    pub fn client_identity(
        mut self,
        certificate: impl Into<Vec<u8>>,
        key: impl Into<Vec<u8>>,
    ) -> Self {
        self.identity = Some((certificate.into(), key.into()));
        self
    }

    /// Sets the name that the Agent's certificate must have. The default is the host of the address.
    pub fn server_name(mut self, name: impl Into<String>) -> Self {
        self.server_name = Some(name.into());
        self
    }

    /// Sets how long connecting may take, including TLS; 1 s by default. A check waits for the
    /// connection within its own [budget](Self::check_timeout). [`build`](Self::build) refuses zero.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Enables keep-alive: the client pings the Agent every `interval` while calls are under way and
    /// the Agent sends no data, and closes the connection if no response arrives within `timeout`.
    /// Off by default; 10 s and 5 s are good values. [`build`](Self::build) refuses zero for either.
    pub fn keep_alive(mut self, interval: Duration, timeout: Duration) -> Self {
        self.keep_alive = Some(KeepAlive { interval, timeout });
        self
    }

    /// Sets the number of connections over which the calls to each Agent are distributed; 1 by
    /// default, at most 64. More than one helps if thousands of checks a second keep one connection's
    /// task busy. The client opens [further ones](Self#connections) itself when streams run out.
    /// [`build`](Self::build) refuses zero.
    pub fn connections(mut self, connections: usize) -> Self {
        self.connections = connections;
        self
    }
}
