//! Reads the settings of a client from environment variables.

use super::error::BuildProblem;
use super::{ApertureClientBuilder, BuildError};
use crate::client::shared::ApertureClient;

impl ApertureClient {
    /// Returns a client of the Agent that the environment variables `APERTURE_AGENT_ADDRESS`,
    /// `APERTURE_API_KEY` and `APERTURE_AGENT_INSECURE` (`true` or `false`, the default) describe.
    /// Commas separate the addresses of several Agents.
    ///
    /// # Errors
    ///
    /// Returns an error that names the variable if there is no address or a value is invalid.
    pub fn from_env() -> Result<Self, BuildError> {
        ApertureClientBuilder::from_env()?.build()
    }
}

impl ApertureClientBuilder {
    /// Reads `APERTURE_AGENT_ADDRESS`, `APERTURE_API_KEY` and `APERTURE_AGENT_INSECURE`. Blanks
    /// around a value are removed, and empty values count as unset. Commas separate the addresses of
    /// several Agents.
    ///
    /// # Errors
    ///
    /// Returns an error that names the variable if there is no address, if
    /// `APERTURE_AGENT_INSECURE` is not one of `true`, `false`, `1` and `0`, or if a value is not
    /// Unicode.
    pub fn from_env() -> Result<Self, BuildError> {
        Self::from_vars(|name| match std::env::var(name) {
            Ok(value) => Ok(Some(value)),
            Err(std::env::VarError::NotPresent) => Ok(None),
            Err(std::env::VarError::NotUnicode(_)) => Err(BuildError(BuildProblem::Variable(
                name,
                "is not Unicode".into(),
            ))),
        })
    }

    pub(super) fn from_vars(
        var: impl Fn(&'static str) -> Result<Option<String>, BuildError>,
    ) -> Result<Self, BuildError> {
        let var = |name| {
            let value: Option<String> = var(name)?;
            Ok::<_, BuildError>(
                value
                    .map(|value| value.trim().to_owned())
                    .filter(|value| !value.is_empty()),
            )
        };
        let mut builder = Self::new();
        match var("APERTURE_AGENT_ADDRESS")? {
            Some(addresses) => builder = builder.addresses(addresses.split(',').map(str::trim)),
            None => {
                let why = "is not set; it must have the address of an Agent".into();
                return Err(BuildError(BuildProblem::Variable(
                    "APERTURE_AGENT_ADDRESS",
                    why,
                )));
            }
        }
        if let Some(key) = var("APERTURE_API_KEY")? {
            builder = builder.api_key(key);
        }
        const INSECURE: &str = "APERTURE_AGENT_INSECURE";
        match var(INSECURE)?.as_deref() {
            None => {}
            Some("true" | "1") => builder = builder.insecure(true),
            Some("false" | "0") => builder = builder.insecure(false),
            Some(other) => {
                let why = format!("is `{other}`, expected `true` or `false`");
                return Err(BuildError(BuildProblem::Variable(INSECURE, why)));
            }
        }
        Ok(builder)
    }
}
