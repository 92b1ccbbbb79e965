//! Errors and warnings about policies, with their position in the file.

use std::fmt;
use std::sync::Arc;

use aperture_core::Cause;

use super::yaml::{NO_POSITION, TextPosition};

/// A message about one position of a file: the content of both errors and warnings.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Diagnostic {
    file: Arc<str>,
    position: Option<(u32, u32)>,
    field: String,
    message: String,
    cause: Cause,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some((line, column)) = self.position {
            write!(f, ":{line}:{column}")?;
        }
        if !self.field.is_empty() {
            write!(f, ": {}", self.field)?;
        }
        write!(f, ": {}", self.message)
    }
}

macro_rules! diagnostic_methods {
    ($name:ident) => {
        impl $name {
            /// Creates a message about a file as a whole.
            #[allow(dead_code)]
            pub(crate) fn new(file: impl Into<Arc<str>>, message: impl Into<String>) -> Self {
                Self(Diagnostic {
                    file: file.into(),
                    position: None,
                    field: String::new(),
                    message: message.into(),
                    cause: Cause::NONE,
                })
            }

            /// Creates a message about a field. [`NO_POSITION`] is a node that is in no text.
            pub(super) fn located(
                file: Arc<str>,
                position: TextPosition,
                field: String,
                message: impl Into<String>,
            ) -> Self {
                Self(Diagnostic {
                    file,
                    position: (position != NO_POSITION).then_some(position),
                    field,
                    message: message.into(),
                    cause: Cause::NONE,
                })
            }

            /// Returns the path of the file, or the name that was given for the text. For a policy
            /// from code, it is the name of the policy, as in ``policy `per-user` ``.
            #[must_use]
            pub fn file(&self) -> &str {
                &self.0.file
            }

            /// Returns the line, counted from 1; `None` if the message is about the file as a
            /// whole, or about a policy from code.
            #[must_use]
            pub fn line(&self) -> Option<u32> {
                self.0.position.map(|(line, _)| line)
            }

            /// Returns the column in characters, counted from 1; `None` if the message is about the
            /// file as a whole, or about a policy from code.
            #[must_use]
            pub fn column(&self) -> Option<u32> {
                self.0.position.map(|(_, column)| column)
            }

            /// Returns the path of the field, such as `spec.circuit.components[0].flow_control`, or
            /// `components[0].burst` if a value in code is wrong; empty if the message is about no
            /// single field.
            #[must_use]
            pub fn field(&self) -> &str {
                &self.0.field
            }

            /// Returns the message: what was found, and what is expected.
            #[must_use]
            pub fn message(&self) -> &str {
                &self.0.message
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

/// The error for a policy that cannot be used, with the file, the line and the field.
///
/// It is displayed as `file:line:column: field: message`, the form that editors and build logs turn
/// into links. The message names what was found and what is expected. The line and the column are
/// absent if the file cannot be read, if policies conflict with each other, and for policies from
/// code, whose name stands in the place of the file. If a file cannot be read, the [`source`](std::error::Error::source) of the error is the I/O error.
///
/// ```
/// use tower_aperture::PolicyError;
///
/// fn annotation(error: &PolicyError) -> String {
///     let line = error.line().unwrap_or(1);
///     format!("::error file={},line={line}::{}", error.file(), error.message())
/// }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyError(Diagnostic);

diagnostic_methods!(PolicyError);

impl PolicyError {
    /// Creates the error for a value of a policy in code.
    pub(super) fn in_code(policy: &str, field: String, message: impl Into<String>) -> Self {
        Self::located(Arc::from(policy), NO_POSITION, field, message)
    }

    /// Creates the error for a file that could not be read.
    #[allow(dead_code)]
    pub(crate) fn unreadable(file: impl Into<Arc<str>>, cause: std::io::Error) -> Self {
        let mut error = Self::new(file, "cannot be read");
        error.0.cause = Cause::new(cause);
        error
    }
}

impl std::error::Error for PolicyError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.cause.get()
    }
}

/// A warning about a policy that loads but probably does not do what its author intended.
///
/// Examples are an unknown key, a `null` in place of a number, and a limiter that lets every flow
/// pass.
///
/// ```
/// use tower_aperture::PolicyWarning;
///
/// fn show(warnings: &[PolicyWarning]) -> String {
///     warnings.iter().map(|warning| format!("{warning}\n")).collect()
/// }
/// assert_eq!(show(&[]), "");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyWarning(Diagnostic);

diagnostic_methods!(PolicyWarning);
