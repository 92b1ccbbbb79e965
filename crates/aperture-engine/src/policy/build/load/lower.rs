//! Turns control loops into components of a policy file.

use super::{Kind, LoadControl};
use crate::policy::PolicyError;
use crate::policy::build::field::FieldPath;
use crate::policy::build::lower::{Lowering, flow_control};
use crate::policy::yaml::{Mapping, Value};

/// The name of the alert that a control loop must have.
const ALERT_NAME: &str = "Load Throttling Event";

impl LoadControl {
    /// Returns the component. `parameters` are those of the load scheduler inside.
    pub(in crate::policy::build) fn lower<'p>(
        &'p self,
        parameters: Mapping,
        path: &FieldPath<'_>,
        lowering: &mut Lowering<'p>,
    ) -> Result<Value, PolicyError> {
        self.check_settings(path)?;
        let signal_path = path.name("signal");
        let (kind, in_ports, parameters) = match &self.kind {
            Kind::Fixed(multiplier) => {
                let port = lowering.port(multiplier, &path.name("load_multiplier"))?;
                let in_ports = Mapping::new().with("load_multiplier", port);
                ("load_scheduler", in_ports, parameters)
            }
            Kind::Aimd { signal, setpoint } => {
                let in_ports = Mapping::new()
                    .with("signal", lowering.port(signal, &signal_path)?)
                    .with("setpoint", lowering.port(setpoint, &path.name("setpoint"))?);
                let parameters = self.loop_parameters(parameters);
                let parameters = self.linear(self.aimd_parameters(parameters, path)?, path)?;
                ("aimd_load_scheduler", in_ports, parameters)
            }
            Kind::Aiad { signal, setpoint } => {
                let in_ports = Mapping::new()
                    .with("signal", lowering.port(signal, &signal_path)?)
                    .with("setpoint", lowering.port(setpoint, &path.name("setpoint"))?);
                let parameters = self.linear(self.loop_parameters(parameters), path)?;
                ("aiad_load_scheduler", in_ports, parameters)
            }
            Kind::Range { signal, ends } => {
                let in_ports = Mapping::new().with("signal", lowering.port(signal, &signal_path)?);
                let [low, high] = ends;
                let degree = path.name("degree").number(self.degree.unwrap_or(1.0))?;
                let parameters = self
                    .loop_parameters(parameters)
                    .with(
                        "low_throttle_threshold",
                        threshold(*low, &path.name("low"))?,
                    )
                    .with(
                        "high_throttle_threshold",
                        threshold(*high, &path.name("high"))?,
                    )
                    .with("degree", degree);
                ("range_driven_load_scheduler", in_ports, parameters)
            }
        };
        let confirmation = self.confirmation.as_ref();
        let confirmation =
            confirmation.map(|signal| lowering.port(signal, &path.name("confirmed_by")));
        let key = self.dry_run_key.as_deref();
        let key = key.map(|key| path.name("dry_run_key").text_value(key));
        let fields = Mapping::new()
            .with(
                "in_ports",
                in_ports.with_some("overload_confirmation", confirmation.transpose()?),
            )
            .with("parameters", parameters)
            .with_some("overload_condition", self.overload_below.then_some("lt"))
            .with_some("dry_run", self.dry_run)
            .with_some("dry_run_config_key", key.transpose()?);
        Ok(flow_control(kind, fields))
    }

    /// Refuses settings that this kind of loop does not have.
    fn check_settings(&self, path: &FieldPath<'_>) -> Result<(), PolicyError> {
        let (fixed, aimd, aiad, range) = match self.kind {
            Kind::Fixed(_) => (true, false, false, false),
            Kind::Aimd { .. } => (false, true, false, false),
            Kind::Aiad { .. } => (false, false, true, false),
            Kind::Range { .. } => (false, false, false, true),
        };
        for (name, is_given, applies, loops) in [
            ("slope", self.slope.is_some(), aimd, "`aimd`"),
            ("gradient", self.gradient.is_some(), aimd, "`aimd`"),
            (
                "min_load_multiplier",
                self.min_load_multiplier.is_some(),
                aiad,
                "`aiad`",
            ),
            (
                "max_load_multiplier",
                self.max_load_multiplier.is_some(),
                aimd || aiad,
                "`aimd` and `aiad`",
            ),
            (
                "increment",
                self.increment.is_some(),
                aimd || aiad,
                "`aimd` and `aiad`",
            ),
            ("decrement", self.decrement.is_some(), aiad, "`aiad`"),
            ("degree", self.degree.is_some(), range, "`range`"),
            ("overload_below", self.overload_below, aiad, "`aiad`"),
            (
                "confirmed_by",
                self.confirmation.is_some(),
                !fixed,
                "`aimd`, `aiad` and `range`",
            ),
        ] {
            if is_given && !applies {
                let message = format!("is a setting of {loops} only; leave it out");
                return Err(path.name(name).error(message));
            }
        }
        Ok(())
    }

    /// Returns the parameters that all loops have.
    fn loop_parameters(&self, load_scheduler: Mapping) -> Mapping {
        let alerter = Mapping::new().with("alert_name", ALERT_NAME);
        Mapping::new()
            .with("load_scheduler", load_scheduler)
            .with("alerter", alerter)
    }

    fn aimd_parameters(
        &self,
        parameters: Mapping,
        path: &FieldPath<'_>,
    ) -> Result<Mapping, PolicyError> {
        let slope = path.name("slope").number(self.slope.unwrap_or(-1.0))?;
        let gradient_path = path.name("gradient");
        let number = |number| gradient_path.number(number);
        let mut gradient = Mapping::new().with("slope", slope);
        if let Some((least, most)) = self.gradient {
            if least > most {
                return Err(gradient_path.error(format!(
                    "the smallest factor, {least}, is more than the largest, {most}; swap them"
                )));
            }
            gradient = gradient
                .with("min_gradient", number(least)?)
                .with("max_gradient", number(most)?);
        }
        Ok(parameters.with("gradient", gradient))
    }

    /// Adds the bounds and the steps of the load multiplier.
    fn linear(&self, parameters: Mapping, path: &FieldPath<'_>) -> Result<Mapping, PolicyError> {
        const NO_STEP: &str = "the load would never change";
        const NO_LOAD: &str = "every flow would pass";
        let least = self.min_load_multiplier.unwrap_or(0.0);
        let least_path = path.name("min_load_multiplier");
        path.name("min_load_multiplier").number(least)?;
        if self.max_load_multiplier.unwrap_or(2.0) <= least {
            return Err(least_path.error(
                "must be less than `max_load_multiplier`, which is 2 by default; otherwise every \
                 flow would pass",
            ));
        }
        let positive = |name, value: Option<f64>, otherwise| {
            let value = value.map(|value| path.name(name).positive(value, otherwise));
            value.transpose()
        };
        let most = positive("max_load_multiplier", self.max_load_multiplier, NO_LOAD)?;
        let decrement = positive("decrement", self.decrement, NO_STEP)?;
        let increment = positive("increment", self.increment, NO_STEP)?;
        Ok(parameters
            .with_some("min_load_multiplier", self.min_load_multiplier)
            .with_some("max_load_multiplier", most)
            .with_some("load_multiplier_linear_decrement", decrement)
            .with_some("load_multiplier_linear_increment", increment))
    }
}

/// Returns the end of a curve: the signal and the load multiplier.
fn threshold((signal, multiplier): (f64, f64), path: &FieldPath<'_>) -> Result<Value, PolicyError> {
    let signal = path.name("signal").number(signal)?;
    let multiplier = path.name("load_multiplier").within(multiplier, 0.0, 1.0)?;
    let threshold = Mapping::new()
        .with("signal_value", signal)
        .with("load_multiplier", multiplier);
    Ok(threshold.into())
}
