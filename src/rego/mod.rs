//! Rego modules of classifiers: compiled and checked at load, evaluated within bounds.

mod builtins;
mod check;
mod graphql;
mod jwt;
mod text;

#[cfg(test)]
mod tests;

use std::fmt;
use std::num::NonZeroU32;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

pub(crate) use regorus::Value;
use regorus::utils::limits::ExecutionTimerConfig;

/// The longest time that one evaluation of a module may take. The request waits for it on its
/// thread.
pub(crate) const MAX_EVALUATION: Duration = Duration::from_millis(100);

/// The largest input document: the bytes of the request's texts, with 32 for each header, query
/// parameter and service.
pub(crate) const MAX_INPUT_BYTES: usize = 256 << 10;

/// The longest value of a label, in bytes.
pub(crate) const MAX_VALUE_BYTES: usize = 64 << 10;

/// The interpreter reads the clock once for this many steps.
const CHECK_INTERVAL: NonZeroU32 = NonZeroU32::new(64).unwrap();

/// A compiled module and the labels that it sets.
pub(crate) struct Program {
    /// Cloned for each evaluation; a clone shares what was compiled.
    engine: regorus::Engine,
    rules: Vec<LabelRule>,
}

/// The rule that a label is read from.
struct LabelRule {
    /// Index in the list of labels.
    label: usize,
    path: String,
    /// Several rules define members of the label's value, as `a["b"] = 1` does.
    partial: bool,
}

/// A reason to refuse a module, with a line and column of the module where there is one.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Flaw {
    pub(crate) place: Option<(u64, u64)>,
    pub(crate) message: String,
}

/// A reason why a module set no label for a request. It holds nothing of the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The module failed: rules conflict, or a number overflows.
    Error,
    /// The evaluation took longer than [`MAX_EVALUATION`].
    Time,
    /// The request is larger than [`MAX_INPUT_BYTES`].
    Input,
    /// A value is longer than [`MAX_VALUE_BYTES`], or nested too deeply.
    Output,
}

impl Program {
    /// Compiles a module in the syntax of Rego v0.
    ///
    /// Refuses a module that Open Policy Agent would refuse to compile, functions that are not
    /// available here, and modules that nest too deeply for the stack of a thread.
    pub(crate) fn compile(module: &str, labels: &[Arc<str>]) -> Result<Self, Flaw> {
        check::nesting(module)?;
        let mut engine = regorus::Engine::new();
        engine.set_rego_v0(true);
        engine.set_strict_builtin_errors(false);
        // `print` writes to stderr otherwise.
        engine.set_gather_prints(true);
        builtins::add(&mut engine).map_err(|message| Flaw {
            place: None,
            message,
        })?;
        let package = engine
            .add_policy("module".to_owned(), module.to_owned())
            .map_err(|error| Flaw::of_interpreter(&error.to_string()))?;
        let tree = engine
            .get_ast_as_json()
            .map_err(|error| Flaw::of_interpreter(&error.to_string()))?;
        let names = check::module(&tree, module, &package)?;
        // Any rule will do: this analyses the whole module, once for all clones.
        if let Some(name) = names.first() {
            let path = Arc::from(format!("{package}.{name}"));
            engine
                .compile_with_entrypoint(&path)
                .map_err(|error| Flaw::of_interpreter(&error.to_string()))?;
        }
        let rules = labels.iter().enumerate().filter_map(|(label, name)| {
            let member = |rule: &String| {
                rule.strip_prefix(&**name)
                    .is_some_and(|rest| rest.starts_with('.'))
            };
            let whole = names.iter().any(|rule| **rule == **name);
            let partial = !whole && names.iter().any(member);
            (whole || partial).then(|| LabelRule {
                label,
                path: format!("{package}.{name}"),
                partial,
            })
        });
        let rules = rules.collect();
        Ok(Self { engine, rules })
    }

    /// Evaluates the module; returns the index and text of each label that has a value.
    ///
    /// As on an Agent, a failure of one rule leaves all labels of the module unset. A rule that is
    /// undefined leaves only its own label unset.
    pub(crate) fn evaluate(&self, input: Value) -> Result<Vec<(usize, String)>, Failure> {
        let until = Instant::now() + MAX_EVALUATION;
        // The interpreter is not free of arithmetic that can panic. The clone is lost with it.
        catch_unwind(AssertUnwindSafe(|| self.evaluate_until(until, input)))
            .unwrap_or(Err(Failure::Error))
    }

    fn evaluate_until(
        &self,
        until: Instant,
        input: Value,
    ) -> Result<Vec<(usize, String)>, Failure> {
        let mut engine = self.engine.clone();
        engine.set_input(input);
        let mut values = Vec::new();
        for rule in &self.rules {
            let limit = until.saturating_duration_since(Instant::now());
            engine.set_execution_timer_config(ExecutionTimerConfig {
                limit,
                check_interval: CHECK_INTERVAL,
            });
            let value = if rule.partial {
                let results = engine.eval_query(rule.path.clone(), false);
                results.map(|results| {
                    let expressions = results.result.into_iter().next();
                    let mut expressions = expressions.map_or_else(Vec::new, |row| row.expressions);
                    expressions.pop().map_or(Value::Undefined, |row| row.value)
                })
            } else {
                engine.eval_rule(rule.path.clone())
            };
            let value = match value {
                Ok(value) => value,
                Err(_) if Instant::now() >= until => return Err(Failure::Time),
                Err(_) => return Err(Failure::Error),
            };
            if value != Value::Undefined {
                let text = text::render(&value).ok_or(Failure::Output)?;
                values.push((rule.label, text));
            }
        }
        // A rule that swallows the error of an expired timer would count as undefined.
        if Instant::now() > until {
            return Err(Failure::Time);
        }
        Ok(values)
    }
}

/// A module may hold keys.
impl fmt::Debug for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Program").finish_non_exhaustive()
    }
}

impl Flaw {
    fn new(place: (u64, u64), message: String) -> Self {
        Self {
            place: Some(place),
            message,
        }
    }

    /// Keeps the place and the reason of an interpreter's error, and leaves out the line of the
    /// module, which may hold a key.
    fn of_interpreter(error: &str) -> Self {
        let place = error.lines().find_map(|line| {
            let mut parts = line.trim().strip_prefix("--> ")?.rsplit(':');
            let column = parts.next()?.parse().ok()?;
            Some((parts.next()?.parse().ok()?, column))
        });
        let message = error.rsplit("error: ").next().unwrap_or(error);
        Self {
            place,
            message: message.trim().to_owned(),
        }
    }
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((line, column)) = self.place {
            write!(f, "line {line}, column {column} of the module: ")?;
        }
        f.write_str(&self.message)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Error => f.write_str("its module failed"),
            Self::Time => write!(f, "its module took longer than {MAX_EVALUATION:?}"),
            Self::Input => write!(f, "the request is larger than {MAX_INPUT_BYTES} bytes"),
            Self::Output => write!(f, "a value is longer than {MAX_VALUE_BYTES} bytes"),
        }
    }
}
