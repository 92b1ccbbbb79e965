//! Turns signals into the components of a circuit that compute them.

use std::time::Duration;

use super::{Kind, Op, Signal, Source};
use crate::policy::PolicyError;
use crate::policy::build::field::FieldPath;
use crate::policy::build::lower::Lowering;
use crate::policy::yaml::{Mapping, Value};

impl<'p> Lowering<'p> {
    /// Returns the port that reads a signal.
    pub(in crate::policy::build) fn port(
        &mut self,
        signal: &'p Signal,
        path: &FieldPath<'_>,
    ) -> Result<Value, PolicyError> {
        if let Some(invalid) = signal.invalid {
            return Err(path.error(invalid));
        }
        Ok(match signal.op {
            Op::Constant(value) => {
                let value = Mapping::new().with("value", path.number(value)?);
                Mapping::new().with("constant_signal", value).into()
            }
            _ => signal_name(&self.signal(signal, path)?),
        })
    }

    /// Returns the name of a signal, whose component is added unless it exists.
    fn signal(&mut self, signal: &'p Signal, path: &FieldPath<'_>) -> Result<String, PolicyError> {
        let known = self.signals.iter().find(|(known, _)| *known == signal);
        if let Some((_, name)) = known {
            return Ok(name.clone());
        }
        let (kind, fields, out_ports) = match &signal.op {
            Op::Constant(value) => ("variable", constant_output(*value, path)?, None),
            Op::Config { key, initial } => {
                let key_path = path.name("config");
                key_path.text_value(key)?;
                self.check_initial(key, *initial, &key_path)?;
                let fields = constant_output(*initial, path)?.with("config_key", key.as_str());
                ("variable", fields, None)
            }
            Op::Measured { source, every } => {
                let every = path.name("every").positive_duration(*every)?;
                let query = self.query(source, path)?;
                let fields = Mapping::new().with("query_string", query);
                (
                    "query",
                    fields.with("evaluation_interval", every),
                    Some("promql"),
                )
            }
            Op::Combined { kind, operands } => {
                let ports = operands.iter().map(|operand| self.port(operand, path));
                let ports = ports.collect::<Result<Vec<Value>, _>>()?;
                let (kind, fields) = combination(*kind, ports, path)?;
                (kind, fields, None)
            }
        };
        let name = format!("SIGNAL_{}", self.signals.len());
        let output = Mapping::new().with("output", signal_name(&name));
        let fields = fields.with("out_ports", output);
        let fields = match out_ports {
            Some(below) => Mapping::new().with(below, fields),
            None => fields,
        };
        self.nodes.push(Mapping::new().with(kind, fields).into());
        self.signals.push((signal, name.clone()));
        Ok(name)
    }

    /// Refuses two initial values for one key of dynamic configuration.
    fn check_initial(
        &self,
        key: &str,
        initial: f64,
        path: &FieldPath<'_>,
    ) -> Result<(), PolicyError> {
        let other = self
            .signals
            .iter()
            .find_map(|(signal, _)| match &signal.op {
                Op::Config {
                    key: other,
                    initial,
                } if other == key => Some(*initial),
                _ => None,
            });
        match other {
            Some(other) => Err(path.error(format!(
                "the initial values {other} and {initial} are given for one key; use the same one"
            ))),
            None => Ok(()),
        }
    }

    /// Returns the query of a measurement, in the form that blueprints have for flux meters.
    fn query(&self, source: &Source, path: &FieldPath<'_>) -> Result<String, PolicyError> {
        Ok(match source {
            Source::Query(query) => {
                path.name("promql").text_value(query)?;
                query.clone()
            }
            Source::Mean { meter, window } => {
                let path = path.name("mean_latency");
                let labels = self.meter(meter, *window, &path)?;
                format!(
                    "sum(increase(flux_meter_sum{labels})) / sum(increase(flux_meter_count{labels}))"
                )
            }
            Source::Quantile {
                meter,
                quantile,
                window,
            } => {
                let path = path.name("latency_quantile");
                let quantile = path.within(*quantile, 0.0, 1.0)?;
                let labels = self.meter(meter, *window, &path)?;
                format!(
                    "histogram_quantile({quantile}, sum(rate(flux_meter_bucket{labels})) by (le))"
                )
            }
        })
    }

    /// Returns the selector of a flux meter of the policy over a window.
    fn meter(
        &self,
        meter: &str,
        window: Duration,
        path: &FieldPath<'_>,
    ) -> Result<String, PolicyError> {
        if !self.meters.contains(&meter) {
            return Err(path.error(format!(
                "the policy has no flux meter of this name; add it by \
                 `measure(FluxMeter::new({meter:?}))`"
            )));
        }
        if [meter, self.policy]
            .iter()
            .any(|name| name.contains(['"', '\\', '\n']))
        {
            return Err(path.error(
                "a measured flux meter and its policy have names without quotes, backslashes and \
                 line breaks; rename them",
            ));
        }
        if window < Duration::from_secs(1) || window.subsec_nanos() > 0 {
            return Err(path.error(format!(
                "the window is {window:?}; give whole seconds, at least one"
            )));
        }
        path.duration(window)?;
        let (policy, seconds) = (self.policy, window.as_secs());
        Ok(format!(
            "{{flow_status=\"OK\", flux_meter_name=\"{meter}\", policy_name=\"{policy}\"}}[{seconds}s]"
        ))
    }
}

fn constant_output(value: f64, path: &FieldPath<'_>) -> Result<Mapping, PolicyError> {
    let value = Mapping::new().with("value", path.number(value)?);
    Ok(Mapping::new().with("constant_output", value))
}

/// Returns the component that combines signals, without its out-port.
fn combination(
    kind: Kind,
    ports: Vec<Value>,
    path: &FieldPath<'_>,
) -> Result<(&'static str, Mapping), PolicyError> {
    let names: &[&str] = match kind {
        Kind::Arithmetic(_) | Kind::Comparison(..) => &["lhs", "rhs"],
        Kind::Inverter => &["input"],
        Kind::Logic(_) => &[],
    };
    let in_ports = match kind {
        Kind::Logic(_) => Mapping::new().with("inputs", ports),
        _ => names
            .iter()
            .zip(ports)
            .fold(Mapping::new(), |map, (name, port)| map.with(*name, port)),
    };
    let fields = Mapping::new().with("in_ports", in_ports);
    Ok(match kind {
        Kind::Arithmetic(operator) => ("arithmetic_combinator", fields.with("operator", operator)),
        Kind::Comparison(operator, true_for) => {
            let true_for = path.name("held_for").duration(true_for)?;
            let fields = fields.with("operator", operator);
            ("decider", fields.with("true_for", true_for))
        }
        Kind::Logic(kind) => (kind, fields),
        Kind::Inverter => ("inverter", fields),
    })
}

fn signal_name(name: &str) -> Value {
    Mapping::new().with("signal_name", name).into()
}
