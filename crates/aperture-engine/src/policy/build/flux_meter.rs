//! Flux meters in code: histograms of how long flows take.

use super::field::FieldPath;
use super::lower::Lowering;
use super::selector::Selector;
use crate::policy::PolicyError;
use crate::policy::yaml::{Mapping, Value};

/// Measures how long flows take, for [signals](super::Signal) and metrics.
///
/// Of several kinds of buckets, the last one applies. Without any, the buckets suit milliseconds.
///
/// ```
/// use tower_aperture::policy::{FluxMeter, Policy};
///
/// let policy = Policy::new("latencies")
///     .at("search")
///     .measure(FluxMeter::new("search").buckets([10.0, 100.0, 1000.0]))
///     .measure(FluxMeter::new("linear").linear_buckets(10.0, 10.0, 20))
///     .measure(FluxMeter::new("wide").exponential_buckets(1.0, 2.0, 12))
///     .measure(FluxMeter::new("range").exponential_bucket_range(1.0, 60_000.0, 20))
///     .measure(FluxMeter::new("flows").at("checkout").attribute("flow_duration_ms"));
/// assert!(policy.to_yaml()?.contains("linear_buckets"));
/// # Ok::<(), tower_aperture::PolicyError>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct FluxMeter {
    pub(super) name: String,
    selectors: Vec<Selector>,
    attribute: Option<String>,
    buckets: Option<Buckets>,
}

#[derive(Clone, Debug, PartialEq)]
enum Buckets {
    Static(Vec<f64>),
    Linear { start: f64, width: f64, count: u32 },
    Exponential { start: f64, factor: f64, count: u32 },
    Range { min: f64, max: f64, count: u32 },
}

impl FluxMeter {
    /// Returns a flux meter. Its name must be unique in all policies.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            selectors: Vec::new(),
            attribute: None,
            buckets: None,
        }
    }

    /// Measures flows of this control point or [`Selector`]. Several calls select the flows of any
    /// of them. Without this, the [policy's](super::Policy::at) selectors apply.
    #[must_use]
    pub fn at(mut self, selector: impl Into<Selector>) -> Self {
        self.selectors.push(selector.into());
        self
    }

    /// Sets the attribute that is measured, `workload_duration_ms` by default.
    #[must_use]
    pub fn attribute(mut self, key: impl Into<String>) -> Self {
        self.attribute = Some(key.into());
        self
    }

    /// Sets the upper bounds of the buckets, in milliseconds, in rising order.
    #[must_use]
    pub fn buckets(mut self, bounds: impl IntoIterator<Item = f64>) -> Self {
        self.buckets = Some(Buckets::Static(bounds.into_iter().collect()));
        self
    }

    /// Sets buckets of the same width in milliseconds, with the upper bound of the first one. There
    /// may be 10 000.
    #[must_use]
    pub fn linear_buckets(mut self, start: f64, width: f64, count: u32) -> Self {
        self.buckets = Some(Buckets::Linear {
            start,
            width,
            count,
        });
        self
    }

    /// Sets buckets of which each is wider than the one before by a factor of more than 1, with the
    /// upper bound of the first one in milliseconds. There may be 10 000.
    #[must_use]
    pub fn exponential_buckets(mut self, start: f64, factor: f64, count: u32) -> Self {
        self.buckets = Some(Buckets::Exponential {
            start,
            factor,
            count,
        });
        self
    }

    /// Sets exponential buckets between the upper bounds of the first and the last one, in
    /// milliseconds. There may be 10 000.
    #[must_use]
    pub fn exponential_bucket_range(mut self, min: f64, max: f64, count: u32) -> Self {
        self.buckets = Some(Buckets::Range { min, max, count });
        self
    }

    pub(super) fn lower(
        &self,
        path: &FieldPath<'_>,
        lowering: &Lowering<'_>,
    ) -> Result<Mapping, PolicyError> {
        let attribute = self.attribute.as_deref();
        let attribute = attribute.map(|key| path.name("attribute").text_value(key));
        let meter = Mapping::new()
            .with("selectors", lowering.selectors(&self.selectors, path)?)
            .with_some("attribute_key", attribute.transpose()?);
        let Some(buckets) = &self.buckets else {
            return Ok(meter);
        };
        let path = path.name("buckets");
        let number = |number| path.number(number);
        let (kind, fields) = match buckets {
            Buckets::Static(bounds) => {
                let rises = bounds.windows(2).all(|pair| pair[0] < pair[1]);
                if bounds.is_empty() || !rises {
                    return Err(path.error("the bounds must rise, and there is at least one"));
                }
                let bounds = bounds.iter().map(|bound| number(*bound).map(Value::from));
                let bounds = bounds.collect::<Result<Vec<Value>, _>>()?;
                ("static_buckets", Mapping::new().with("buckets", bounds))
            }
            Buckets::Linear {
                start,
                width,
                count,
            } => {
                let width = path.positive(*width, "all buckets would be the same")?;
                let fields = Mapping::new().with("start", number(*start)?);
                let fields = fields.with("width", width).with("count", *count);
                ("linear_buckets", fields)
            }
            Buckets::Exponential {
                start,
                factor,
                count,
            } => {
                let fields = Mapping::new().with("start", number(*start)?);
                let fields = fields
                    .with("factor", number(*factor)?)
                    .with("count", *count);
                ("exponential_buckets", fields)
            }
            Buckets::Range { min, max, count } => {
                if min >= max {
                    return Err(path.error(format!(
                        "the first bound, {min}, must be less than the last, {max}"
                    )));
                }
                let fields = Mapping::new().with("min", number(*min)?);
                let fields = fields.with("max", number(*max)?).with("count", *count);
                ("exponential_buckets_range", fields)
            }
        };
        Ok(meter.with(kind, fields))
    }
}
