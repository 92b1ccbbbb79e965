//! What is wrong with a policy, and where.

use std::fmt;
use std::sync::Arc;

use crate::flow::Cause;

/// One remark about one place of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Finding {
    file: Arc<str>,
    place: Option<(u32, u32)>,
    field: String,
    message: String,
    cause: Cause,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some((line, column)) = self.place {
            write!(f, ":{line}:{column}")?;
        }
        if !self.field.is_empty() {
            write!(f, ": {}", self.field)?;
        }
        write!(f, ": {}", self.message)
    }
}

macro_rules! finding {
    ($name:ident) => {
        impl $name {
            /// A remark about a file as a whole.
            #[allow(dead_code)]
            pub(crate) fn new(file: impl Into<Arc<str>>, message: impl Into<String>) -> Self {
                Self(Finding {
                    file: file.into(),
                    place: None,
                    field: String::new(),
                    message: message.into(),
                    cause: Cause::NONE,
                })
            }

            pub(super) fn at(
                file: Arc<str>,
                (line, column): (u32, u32),
                field: String,
                message: impl Into<String>,
            ) -> Self {
                Self(Finding {
                    file,
                    place: Some((line, column)),
                    field,
                    message: message.into(),
                    cause: Cause::NONE,
                })
            }

            /// The file's path, or the name the text was given.
            #[must_use]
            pub fn file(&self) -> &str {
                &self.0.file
            }

            /// The line, counted from 1; `None` when the file as a whole is meant.
            #[must_use]
            pub fn line(&self) -> Option<u32> {
                self.0.place.map(|(line, _)| line)
            }

            /// The column in characters, counted from 1; `None` when the file as a whole is meant.
            #[must_use]
            pub fn column(&self) -> Option<u32> {
                self.0.place.map(|(_, column)| column)
            }

            /// The path of the field, as `spec.circuit.components[0].flow_control`; empty when no
            /// single field is meant.
            #[must_use]
            pub fn field(&self) -> &str {
                &self.0.field
            }

            /// What was found, and what would be right.
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

/// A policy that cannot be used: the file, the line, the field, what was found and what would be
/// right.
///
/// It shows itself as `file:line:column: field: message`, the form that editors and build logs
/// turn into links. A file that cannot be read and policies that do not go together are told the
/// same way, without a line. Why a file cannot be read is the [`source`](std::error::Error::source)
/// of the error.
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
pub struct PolicyError(Finding);

finding!(PolicyError);

impl PolicyError {
    /// A file that could not be read.
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

/// Something in a policy that is not wrong but likely not meant: an unknown key, a `null` in the
/// place of a number, a limiter that lets everything pass.
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
pub struct PolicyWarning(Finding);

finding!(PolicyWarning);
