//! The path of a field of a policy in code, and the checks of its value.

use std::fmt::Write as _;
use std::time::Duration;

use crate::policy::PolicyError;
use crate::policy::yaml::{Value, shortened};

/// The path of a field, from the policy to the field, for errors about its value.
#[derive(Clone, Copy, Debug)]
pub(super) struct FieldPath<'a> {
    policy: &'a str,
    parent: Option<&'a FieldPath<'a>>,
    step: Step,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Policy,
    Name(&'static str),
    Index(usize),
}

/// The longest duration of a policy file, which protobuf defines.
const MAX_SECONDS: u64 = 315_576_000_000;

/// The maximum length of a text that becomes the key of a mapping: YAML limits it.
pub(super) const MAX_KEY_BYTES: usize = 256;

impl<'a> FieldPath<'a> {
    pub(super) fn policy(policy: &'a str) -> Self {
        Self {
            policy,
            parent: None,
            step: Step::Policy,
        }
    }

    pub(super) fn name(&'a self, name: &'static str) -> Self {
        self.step(Step::Name(name))
    }

    pub(super) fn index(&'a self, index: usize) -> Self {
        self.step(Step::Index(index))
    }

    fn step(&'a self, step: Step) -> Self {
        Self {
            policy: self.policy,
            parent: Some(self),
            step,
        }
    }

    fn text(&self) -> String {
        let mut text = self.parent.map(Self::text).unwrap_or_default();
        // Writing to a `String` does not fail.
        let _ = match self.step {
            Step::Policy => Ok(()),
            Step::Name(name) if text.is_empty() => write!(text, "{name}"),
            Step::Name(name) => write!(text, ".{name}"),
            Step::Index(index) => write!(text, "[{index}]"),
        };
        text
    }

    pub(super) fn error(&self, message: impl Into<String>) -> PolicyError {
        PolicyError::in_code(&source_name(self.policy), self.text(), message)
    }

    /// Returns a text that must not be empty.
    pub(super) fn text_value(&self, text: &str) -> Result<Value, PolicyError> {
        match text {
            "" => Err(self.error("must not be empty; give it a name, or leave the call out")),
            text => Ok(Value::from(text)),
        }
    }

    /// Checks a text that names an entry of a mapping.
    pub(super) fn check_key(&self, text: &str) -> Result<(), PolicyError> {
        self.text_value(text)?;
        match text.len() {
            0..=MAX_KEY_BYTES => Ok(()),
            bytes => Err(self.error(format!(
                "{bytes} bytes are too many; the limit is {MAX_KEY_BYTES}"
            ))),
        }
    }

    /// Returns a number that must be finite.
    pub(super) fn number(&self, number: f64) -> Result<f64, PolicyError> {
        match number.is_finite() {
            true => Ok(number),
            false => Err(self.error(format!(
                "{number} is not a number that a policy may have; give a finite one"
            ))),
        }
    }

    /// Returns a number that must be finite and more than zero. `otherwise` says what a smaller one
    /// would do.
    pub(super) fn positive(&self, number: f64, otherwise: &str) -> Result<f64, PolicyError> {
        match self.number(number)? {
            number if number > 0.0 => Ok(number),
            number => Err(self.error(format!("must be more than zero, not {number}: {otherwise}"))),
        }
    }

    /// Returns a number that must be within bounds.
    pub(super) fn within(&self, number: f64, least: f64, most: f64) -> Result<f64, PolicyError> {
        match self.number(number)? {
            number if (least..=most).contains(&number) => Ok(number),
            number => Err(self.error(format!("must be from {least} to {most}, not {number}"))),
        }
    }

    /// Returns a duration as policy files have it: seconds with up to nine decimals.
    pub(super) fn duration(&self, duration: Duration) -> Result<Value, PolicyError> {
        if duration > Duration::from_secs(MAX_SECONDS) {
            return Err(self.error("must not be more than 10 000 years (315 576 000 000 s)"));
        }
        let (seconds, nanos) = (duration.as_secs(), duration.subsec_nanos());
        let text = format!("{seconds}.{nanos:09}");
        let text = text.trim_end_matches('0').trim_end_matches('.');
        Ok(Value::from(format!("{text}s")))
    }

    /// Returns a duration that must be more than zero.
    pub(super) fn positive_duration(&self, duration: Duration) -> Result<Value, PolicyError> {
        match duration {
            Duration::ZERO => {
                Err(self.error("must be more than zero; give a duration such as one second"))
            }
            duration => self.duration(duration),
        }
    }
}

/// Returns the name by which errors and warnings refer to a policy from code.
pub(super) fn source_name(policy: &str) -> String {
    format!("policy `{}`", shortened(policy))
}
