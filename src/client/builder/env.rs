//! What the environment says about the Agent.

use super::error::Problem;
use super::{ApertureClientBuilder, BuildError};

impl ApertureClientBuilder {
    /// Reads `APERTURE_AGENT_ADDRESS`, `APERTURE_API_KEY` and `APERTURE_AGENT_INSECURE`; empty
    /// values count as unset, and blanks around a value do not belong to it. Commas separate the
    /// addresses of several Agents.
    ///
    /// # Errors
    ///
    /// When there is no address, when `APERTURE_AGENT_INSECURE` is not one of `true`, `false`, `1`
    /// and `0`, or when a value is not Unicode; the error names the variable.
    pub fn from_env() -> Result<Self, BuildError> {
        Self::from_vars(|name| match std::env::var(name) {
            Ok(value) => Ok(Some(value)),
            Err(std::env::VarError::NotPresent) => Ok(None),
            Err(std::env::VarError::NotUnicode(_)) => {
                Err(BuildError(Problem::Variable(name, "is not Unicode".into())))
            }
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
                let why = "is not set: there is no address of an Agent".into();
                return Err(BuildError(Problem::Variable("APERTURE_AGENT_ADDRESS", why)));
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
                return Err(BuildError(Problem::Variable(INSECURE, why)));
            }
        }
        Ok(builder)
    }
}
