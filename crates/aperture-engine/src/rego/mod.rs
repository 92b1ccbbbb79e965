//! Compiles the Rego modules of classifiers when policies load, and evaluates them within bounds of
//! time and memory.

mod builtins;
mod check;
mod graphql;
mod jwt;
mod text;

#[cfg(test)]
mod tests;

use std::fmt;
use std::num::NonZeroU32;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

pub(crate) use regorus::Value;
use regorus::utils::limits::ExecutionTimerConfig;

/// The longest time that one evaluation of a module may take. An evaluation blocks the thread of
/// its request.
pub(crate) const MAX_EVALUATION: Duration = Duration::from_millis(100);

/// The size of the largest input document: the bytes of the request's texts, and 32 for each
/// header, query parameter and service.
pub(crate) const MAX_INPUT_BYTES: usize = 256 << 10;

/// The longest value of a label, in bytes.
pub(crate) const MAX_VALUE_BYTES: usize = 64 << 10;

/// The number of steps between two readings of the clock by the interpreter.
const CHECK_INTERVAL: NonZeroU32 = NonZeroU32::new(64).unwrap();

/// A compiled module and the labels that it sets.
pub(crate) struct CompiledModule {
    /// Cloned for each evaluation. Clones share the compiled code.
    engine: regorus::Engine,
    rules: Vec<LabelRule>,
}

/// Compiles a module, which every build with the feature `rego` evaluates.
///
/// # Errors
///
/// The same as [`CompiledModule::compile`].
pub(crate) fn compile(
    module: &str,
    labels: &[Arc<str>],
) -> Result<Option<CompiledModule>, CompileError> {
    CompiledModule::compile(module, labels).map(Some)
}

/// The rule whose value is the value of a label.
struct LabelRule {
    /// The index in the list of labels.
    label: usize,
    path: String,
    /// The value is an object whose members are defined by several rules, such as `a["b"] = 1`.
    partial: bool,
}

/// The reason why a module is refused, with its line and column in the module if they are known.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct CompileError {
    pub(crate) position: Option<(u64, u64)>,
    pub(crate) message: String,
}

/// The reason why a module has set no label for a request. It contains no data of the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EvaluationError {
    /// The module failed, for example because rules conflict or a number overflows.
    Error,
    /// The evaluation took longer than [`MAX_EVALUATION`].
    Time,
    /// The request is larger than [`MAX_INPUT_BYTES`].
    Input,
    /// A value is longer than [`MAX_VALUE_BYTES`], or nested too deeply.
    Output,
}

impl CompiledModule {
    /// Compiles a module in the syntax of Rego v0.
    ///
    /// # Errors
    ///
    /// If Open Policy Agent would refuse to compile the module, if the module calls a function that
    /// is not available here, or if it nests too deeply for the stack of a thread.
    pub(crate) fn compile(module: &str, labels: &[Arc<str>]) -> Result<Self, CompileError> {
        check::check_nesting(module)?;
        let (mut engine, package) = parse(module)?;
        let tree = engine
            .get_ast_as_json()
            .map_err(|error| CompileError::from_interpreter(&error.to_string()))?;
        let checked = check::check_module(&tree, module, &package)?;
        if !checked.redundant_imports.is_empty() {
            (engine, _) = parse(&without(module, &checked.redundant_imports))?;
        }
        let names = checked.rules;
        // Analyses the whole module once for all clones, with any of its rules as the entry point.
        if let Some(name) = names.first() {
            let path = Arc::from(format!("{package}.{name}"));
            engine
                .compile_with_entrypoint(&path)
                .map_err(|error| CompileError::from_interpreter(&error.to_string()))?;
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

    /// Evaluates the module and returns the index and value of each label that has a value.
    ///
    /// An undefined rule leaves its own label unset.
    ///
    /// # Errors
    ///
    /// If one rule fails. All labels of the module are then unset, as on an Agent.
    pub(crate) fn evaluate(&self, input: Value) -> Result<Vec<(usize, String)>, EvaluationError> {
        let until = Instant::now() + MAX_EVALUATION;
        // Arithmetic in the interpreter can panic. The clone of the interpreter is then dropped.
        catch_unwind(AssertUnwindSafe(|| self.evaluate_until(until, input)))
            .unwrap_or(Err(EvaluationError::Error))
    }

    fn evaluate_until(
        &self,
        until: Instant,
        input: Value,
    ) -> Result<Vec<(usize, String)>, EvaluationError> {
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
                Err(_) if Instant::now() >= until => return Err(EvaluationError::Time),
                Err(_) => return Err(EvaluationError::Error),
            };
            if value != Value::Undefined {
                let text = text::render(&value).ok_or(EvaluationError::Output)?;
                values.push((rule.label, text));
            }
        }
        // The error of an expired timer can be lost within a rule, which then appears undefined.
        if Instant::now() > until {
            return Err(EvaluationError::Time);
        }
        Ok(values)
    }
}

/// Returns an interpreter with the module, and the path of its package.
fn parse(module: &str) -> Result<(regorus::Engine, String), CompileError> {
    let mut engine = regorus::Engine::new();
    engine.set_rego_v0(true);
    engine.set_strict_builtin_errors(false);
    // Otherwise, `print` writes to stderr.
    engine.set_gather_prints(true);
    builtins::add(&mut engine).map_err(|message| CompileError {
        position: None,
        message,
    })?;
    let package = engine
        .add_policy("module".to_owned(), module.to_owned())
        .map_err(|error| CompileError::from_interpreter(&error.to_string()))?;
    Ok((engine, package))
}

/// Returns the module with blanks in place of its redundant imports, about which the interpreter
/// would write to stderr. All positions stay the same.
fn without(module: &str, redundant_imports: &[Range<usize>]) -> String {
    let mut module = module.to_owned();
    for import in redundant_imports {
        module.replace_range(import.clone(), &" ".repeat(import.len()));
    }
    module
}

/// Implemented by hand, because a module may contain secret keys.
impl fmt::Debug for CompiledModule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CompiledModule").finish_non_exhaustive()
    }
}

impl CompileError {
    fn new(position: (u64, u64), message: String) -> Self {
        Self {
            position: Some(position),
            message,
        }
    }

    /// Converts an error of the interpreter. Keeps its position and reason, and omits the quoted
    /// line of the module, which may contain a secret key.
    fn from_interpreter(error: &str) -> Self {
        let position = error.lines().find_map(|line| {
            let mut parts = line.trim().strip_prefix("--> ")?.rsplit(':');
            let column = parts.next()?.parse().ok()?;
            Some((parts.next()?.parse().ok()?, column))
        });
        let message = error.rsplit("error: ").next().unwrap_or(error);
        Self {
            position,
            message: message.trim().to_owned(),
        }
    }
}

impl fmt::Display for CompileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((line, column)) = self.position {
            write!(f, "line {line}, column {column} of the module: ")?;
        }
        f.write_str(&self.message)
    }
}

impl fmt::Display for EvaluationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Error => f.write_str("its Rego module failed"),
            Self::Time => write!(f, "its Rego module took longer than {MAX_EVALUATION:?}"),
            Self::Input => write!(f, "the request is larger than {MAX_INPUT_BYTES} bytes"),
            Self::Output => write!(f, "a value is longer than {MAX_VALUE_BYTES} bytes"),
        }
    }
}
