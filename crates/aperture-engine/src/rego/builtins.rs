//! Built-in functions of Rego that the interpreter lacks, or whose cost it does not bound.

use regorus::{Engine, Value};
use sha2::{Sha256, Sha384, Sha512};

use super::{graphql, jwt};

/// The most numbers that `numbers.range` returns, because a request must not choose how much memory
/// an evaluation takes.
const MAX_RANGE: u64 = 10_000;

/// The functions that [`add`] adds, with their numbers of parameters.
const ADDED: [(&str, usize); 6] = [
    ("graphql.parse_query", 1),
    ("io.jwt.decode", 1),
    ("io.jwt.verify_hs256", 2),
    ("io.jwt.verify_hs384", 2),
    ("io.jwt.verify_hs512", 2),
    ("numbers.range", 2),
];

/// Functions of the interpreter that modules may not call, because a request could choose how much
/// memory they take.
const DISABLED: [&str; 3] = ["bits.lsh", "net.cidr_expand", "numbers.range_step"];

/// Returns the number of parameters of a function, 0 for any number. `None` if modules may not call
/// it.
pub(super) fn parameters(name: &str) -> Option<usize> {
    if name == "print" {
        return Some(0);
    }
    if DISABLED.contains(&name) {
        return None;
    }
    let added = ADDED.iter().find(|(added, _)| *added == name);
    added.map(|(_, parameters)| *parameters).or_else(|| {
        let (_, parameters) = regorus::unstable::BUILTINS.get(name)?;
        Some(usize::from(*parameters))
    })
}

/// Adds the functions of this crate to an interpreter.
pub(super) fn add(engine: &mut Engine) -> Result<(), String> {
    let mut add = |name: &str, parameters, function: fn(&[Value]) -> Value| {
        engine
            .add_extension(
                name.to_owned(),
                parameters,
                Box::new(move |arguments: Vec<Value>| Ok(function(&arguments))),
            )
            .map_err(|error| error.to_string())
    };
    add("graphql.parse_query", 1, |arguments| {
        arguments
            .first()
            .map_or(Value::Undefined, graphql::parse_query)
    })?;
    add("io.jwt.decode", 1, |arguments| {
        arguments.first().map_or(Value::Undefined, jwt::decode)
    })?;
    add("io.jwt.verify_hs256", 2, |arguments| {
        call_with_two(arguments, jwt::verify::<Sha256>)
    })?;
    add("io.jwt.verify_hs384", 2, |arguments| {
        call_with_two(arguments, jwt::verify::<Sha384>)
    })?;
    add("io.jwt.verify_hs512", 2, |arguments| {
        call_with_two(arguments, jwt::verify::<Sha512>)
    })?;
    add("numbers.range", 2, |arguments| {
        call_with_two(arguments, range)
    })
}

/// Calls a function of two parameters; undefined for any other number of arguments.
fn call_with_two(arguments: &[Value], function: fn(&Value, &Value) -> Value) -> Value {
    match arguments {
        [first, second] => function(first, second),
        _ => Value::Undefined,
    }
}

/// `numbers.range`: the numbers from `first` to `last`, ascending or descending, both included.
fn range(first: &Value, last: &Value) -> Value {
    let (Ok(first), Ok(last)) = (first.as_i64(), last.as_i64()) else {
        return Value::Undefined;
    };
    if first.abs_diff(last) >= MAX_RANGE {
        return Value::Undefined;
    }
    let numbers: Vec<Value> = if first <= last {
        (first..=last).map(Value::from).collect()
    } else {
        (last..=first).rev().map(Value::from).collect()
    };
    Value::from(numbers)
}
