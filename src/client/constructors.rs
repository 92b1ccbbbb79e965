//! The constructors of clients.

#[cfg(feature = "embedded")]
use std::sync::Arc;
#[cfg(feature = "embedded")]
use std::time::Duration;

#[cfg(feature = "remote")]
use super::builder::{ApertureClientBuilder, BuildError};
#[cfg(feature = "test-util")]
use super::scripted::Script;
use super::shared::{ApertureClient, Backend};
#[cfg(feature = "embedded")]
use super::shared::{CHECK_TIMEOUT, Inner};

impl ApertureClient {
    /// Returns a builder for a client that connects to an Agent.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use tower_aperture::ApertureClient;
    ///
    /// let client = ApertureClient::builder()
    ///     .address("localhost:8089")
    ///     .insecure(true)
    ///     .build()?;
    /// # Ok(()) }
    /// ```
    #[cfg(feature = "remote")]
    #[must_use]
    pub fn builder() -> ApertureClientBuilder {
        ApertureClientBuilder::new()
    }

    /// Returns a client of the Agent that the environment variables `APERTURE_AGENT_ADDRESS`,
    /// `APERTURE_API_KEY` and `APERTURE_AGENT_INSECURE` (`true` or `false`, the default) describe.
    /// Commas separate the addresses of several Agents.
    ///
    /// # Errors
    ///
    /// Returns an error that names the variable if there is no address or a value is invalid.
    #[cfg(feature = "remote")]
    pub fn from_env() -> Result<Self, BuildError> {
        ApertureClientBuilder::from_env()?.build()
    }

    #[cfg(feature = "remote")]
    pub(crate) fn from_remote(remote: crate::remote::Remote) -> Self {
        Self::with(Backend::Remote(remote))
    }

    /// Returns a client that decides in process.
    ///
    /// A scheduler queues a flow for at most 200 ms, as with an Agent, unless the flow or its layer
    /// has a [check timeout](crate::FlowParams::check_timeout) of its own or the client is made
    /// [with another one](Self::embedded_with_check_timeout). The client logs a warning for the
    /// first flow whose scheduler has a longer `queue_timeout`.
    ///
    /// ```
    /// use tower_aperture::{ApertureClient, Engine};
    ///
    /// let engine = Engine::builder().build()?;
    /// let client = ApertureClient::embedded(engine);
    /// # let _ = client;
    /// # Ok::<(), tower_aperture::PolicyError>(())
    /// ```
    #[cfg(feature = "embedded")]
    #[must_use]
    pub fn embedded(engine: crate::Engine) -> Self {
        Self::embedded_with_check_timeout(engine, CHECK_TIMEOUT)
    }

    /// Returns a client that decides in process and has this default check timeout.
    ///
    /// A flow without a check timeout of its own waits in schedulers for at most `check_timeout`.
    /// Zero means no limit: a flow then waits as long as its policies allow.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_aperture::{ApertureClient, Engine};
    ///
    /// // The policies of this engine queue flows for up to two seconds.
    /// let engine = Engine::builder().build()?;
    /// let client = ApertureClient::embedded_with_check_timeout(engine, Duration::from_secs(2));
    /// # let _ = client;
    /// # Ok::<(), tower_aperture::PolicyError>(())
    /// ```
    #[cfg(feature = "embedded")]
    #[must_use]
    pub fn embedded_with_check_timeout(engine: crate::Engine, check_timeout: Duration) -> Self {
        Self {
            inner: Arc::new(Inner {
                check_timeout,
                ..Inner::new(Backend::Embedded(engine))
            }),
        }
    }

    /// Returns a client without flow control: every flow is unreachable, so it runs unless it is in
    /// ramp mode.
    #[must_use]
    pub fn disabled() -> Self {
        log_event!(warn, "flow control is disabled: flows run unchecked");
        Self::with(Backend::Disabled)
    }
}

#[cfg(feature = "test-util")]
impl Script {
    /// Returns a client whose decisions come from this script.
    #[must_use]
    pub fn client(&self) -> ApertureClient {
        ApertureClient::with(Backend::Scripted(self.clone()))
    }
}
