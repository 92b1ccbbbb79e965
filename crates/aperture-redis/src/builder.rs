//! The settings of a store.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use aperture_engine::engine::Clock;
use aperture_engine::engine::shared::StoreAbsence;
use redis::RedisConnectionInfo;

use crate::Redis;
use crate::address::{Address, parse_url};
use crate::connect::Connector;
use crate::shared::StoreClock;

/// The longest prefix, in bytes.
const MAX_PREFIX_BYTES: usize = 64;
/// The most nodes of a cluster that a builder takes.
const MAX_NODES: usize = 64;

/// A wrong setting of a store. Its text names the setting and what is wrong, and never a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedisConfigError {
    field: &'static str,
    message: String,
}

impl RedisConfigError {
    pub(crate) fn new(field: &'static str, message: impl Into<String>) -> Self {
        Self {
            field,
            message: message.into(),
        }
    }

    /// Returns the setting that is wrong, by the name of the builder's method.
    #[must_use]
    pub const fn field(&self) -> &'static str {
        self.field
    }
}

impl fmt::Display for RedisConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { field, message } = self;
        write!(f, "wrong setting `{field}` of the Redis store: {message}")
    }
}

impl std::error::Error for RedisConfigError {}

/// Sets up a [`Redis`] store.
///
/// ```
/// use std::time::Duration;
/// use aperture_redis::Redis;
/// use aperture_engine::engine::shared::StoreAbsence;
///
/// let store = Redis::builder("redis://cache.internal:6379")
///     .username("limits")
///     .password("secret")
///     .prefix("shop")
///     .deadline(Duration::from_millis(10))
///     .absence(StoreAbsence::Closed)
///     .build()?;
/// assert!(!format!("{store:?}").contains("secret"));
/// # Ok::<(), aperture_redis::RedisConfigError>(())
/// ```
#[must_use = "a builder does nothing until `build` is called"]
pub struct RedisBuilder {
    url: String,
    nodes: Option<Vec<String>>,
    username: Option<String>,
    password: Option<String>,
    prefix: String,
    deadline: Duration,
    connect_timeout: Duration,
    absence: StoreAbsence,
    #[cfg(feature = "tls")]
    tls_roots: Option<Vec<u8>>,
    clock: StoreClock,
    shared_caches: bool,
}

impl fmt::Debug for RedisBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisBuilder")
            .field("prefix", &self.prefix)
            .field("deadline", &self.deadline)
            .field("connect_timeout", &self.connect_timeout)
            .field("absence", &self.absence)
            .field("shared_caches", &self.shared_caches)
            .finish_non_exhaustive()
    }
}

impl RedisBuilder {
    pub(crate) fn new(url: String) -> Self {
        Self {
            url,
            nodes: None,
            username: None,
            password: None,
            prefix: "aperture".to_owned(),
            deadline: Duration::from_millis(20),
            connect_timeout: Duration::from_secs(2),
            absence: StoreAbsence::default(),
            #[cfg(feature = "tls")]
            tls_roots: None,
            clock: StoreClock::Server,
            shared_caches: false,
        }
    }

    /// Makes this the store of a cluster. Names further nodes, at most 64, by URLs like that of the
    /// first node; the store finds the others, so the list may be empty. The user, the password and
    /// TLS are those of the first URL.
    pub fn cluster_nodes<S: Into<String>>(mut self, urls: impl IntoIterator<Item = S>) -> Self {
        // One more than allowed, so that `build` finds that there are too many.
        let urls = urls.into_iter().take(MAX_NODES + 1).map(Into::into);
        self.nodes = Some(urls.collect());
        self
    }

    /// Sets the user of the connections, in place of that of the URL.
    pub fn username(mut self, username: impl Into<String>) -> Self {
        self.username = Some(username.into());
        self
    }

    /// Sets the password of the connections, in place of that of the URL.
    pub fn password(mut self, password: impl Into<String>) -> Self {
        self.password = Some(password.into());
        self
    }

    /// Sets the beginning of all keys and of the channel for freed slots; `aperture` by default.
    /// Engines share their limits if they have the same prefix. It has 1 to 64 bytes of letters,
    /// digits, `-`, `_`, `.` and `:`.
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// Sets how long a flow waits for the store; 20 ms by default, from 1 ms to 10 s.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Sets how long a connection may take, with TLS and login; 2 s by default, from 1 ms to 60 s.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Sets how flows are decided while the store does not answer; by the local share by default.
    pub fn absence(mut self, absence: StoreAbsence) -> Self {
        self.absence = absence;
        self
    }

    /// Makes engines share their result caches and their global cache in this store; off by default,
    /// when each engine has caches of its own, in process.
    ///
    /// It is off because a lookup then costs a round trip, and because cached values, which may be
    /// personal, leave the process and take memory of the server: up to 1 MiB each, for up to seven
    /// days. See [the crate's documentation](crate#caches).
    ///
    /// ```
    /// use aperture_engine::Engine;
    /// use aperture_redis::Redis;
    ///
    /// let store = Redis::builder("redis://cache.internal:6379").shared_caches(true).build()?;
    /// let engine = Engine::builder().shared(store).build()?;
    /// # let _ = engine;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn shared_caches(mut self, on: bool) -> Self {
        self.shared_caches = on;
        self
    }

    /// Trusts these root certificates, in PEM, in place of the system's.
    #[cfg(feature = "tls")]
    #[cfg_attr(docsrs, doc(cfg(feature = "tls")))]
    pub fn tls_roots(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.tls_roots = Some(pem.into());
        self
    }

    /// Decides by this clock, and not by the server's, so that recordings can be replayed. Slots
    /// then have no lease.
    #[doc(hidden)]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = StoreClock::PassedIn(clock);
        self
    }

    /// Builds the store. It connects at its first use.
    ///
    /// # Errors
    ///
    /// Returns an error that names the first setting that is wrong.
    pub fn build(self) -> Result<Redis, RedisConfigError> {
        let wrong = RedisConfigError::new;
        let first = parse_url(&self.url).map_err(|message| wrong("url", message))?;
        let mut login = first.login;
        if let Some(username) = &self.username {
            login = login.set_username(username);
        }
        if let Some(password) = &self.password {
            login = login.set_password(password);
        }
        let mut addresses = vec![first.address];
        for url in self.nodes.iter().flatten() {
            let node = parse_url(url).map_err(|message| wrong("cluster_nodes", message))?;
            if node.tls != first.tls {
                let message = "all nodes must use TLS, or none";
                return Err(wrong("cluster_nodes", message.to_owned()));
            }
            if !addresses.contains(&node.address) {
                addresses.push(node.address);
            }
        }
        let cluster = self.nodes.is_some();
        if addresses.len() > MAX_NODES {
            return Err(wrong(
                "cluster_nodes",
                format!("more than {MAX_NODES} nodes"),
            ));
        }
        check_cluster(cluster, &addresses, &login)?;
        check_prefix(&self.prefix)?;
        check_time("deadline", self.deadline, Duration::from_secs(10))?;
        check_time(
            "connect_timeout",
            self.connect_timeout,
            Duration::from_secs(60),
        )?;
        #[cfg(feature = "tls")]
        let tls = (first.tls).then(|| crate::tls::Tls::new(self.tls_roots.as_deref()));
        #[cfg(feature = "tls")]
        let tls = tls
            .transpose()
            .map_err(|message| wrong("tls_roots", message))?;
        #[cfg(not(feature = "tls"))]
        if first.tls {
            let message = "TLS needs the feature `tls` of aperture-redis";
            return Err(wrong("url", message.to_owned()));
        }
        let connector = Connector {
            login,
            timeout: self.connect_timeout,
            #[cfg(feature = "tls")]
            tls,
        };
        Ok(Redis::start(Settings {
            addresses,
            cluster,
            connector,
            prefix: self.prefix,
            deadline: self.deadline,
            absence: self.absence,
            clock: self.clock,
            shared_caches: self.shared_caches,
        }))
    }
}

/// Checked settings.
pub(crate) struct Settings {
    /// The first nodes to connect to; one if this is no cluster.
    pub(crate) addresses: Vec<Address>,
    pub(crate) cluster: bool,
    pub(crate) connector: Connector,
    pub(crate) prefix: String,
    pub(crate) deadline: Duration,
    pub(crate) absence: StoreAbsence,
    pub(crate) clock: StoreClock,
    pub(crate) shared_caches: bool,
}

fn check_cluster(
    cluster: bool,
    addresses: &[Address],
    login: &RedisConnectionInfo,
) -> Result<(), RedisConfigError> {
    if !cluster {
        return Ok(());
    }
    if login.db() != 0 {
        let message = "a cluster has only the database 0";
        return Err(RedisConfigError::new("url", message));
    }
    if addresses.iter().any(|at| matches!(at, Address::Unix(_))) {
        let message = "the nodes of a cluster have no Unix sockets";
        return Err(RedisConfigError::new("cluster_nodes", message));
    }
    Ok(())
}

fn check_prefix(prefix: &str) -> Result<(), RedisConfigError> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte);
    if prefix.is_empty() || prefix.len() > MAX_PREFIX_BYTES || !prefix.bytes().all(allowed) {
        let message = "expected 1 to 64 letters, digits, `-`, `_`, `.` or `:`";
        return Err(RedisConfigError::new("prefix", message));
    }
    Ok(())
}

fn check_time(
    field: &'static str,
    time: Duration,
    longest: Duration,
) -> Result<(), RedisConfigError> {
    if time < Duration::from_millis(1) || time > longest {
        let message = format!("expected 1 ms to {longest:?}, found {time:?}");
        return Err(RedisConfigError::new(field, message));
    }
    Ok(())
}
