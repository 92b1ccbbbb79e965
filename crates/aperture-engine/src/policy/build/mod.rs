//! Builds policies in Rust code.
//!
//! Applications use these types as `tower_aperture::policy`, where they are described.
//!
//! A policy in code becomes the document that a policy file would be. The engine reads this
//! document by the rules and defaults of files, and [`Policy::to_yaml`] prints it. What would be
//! wrong in code only, such as a limit of zero, is refused before. A setting that files cannot
//! express calls `Lowering::only_in_code`.

mod classifier;
mod code_settings;
mod document;
mod field;
mod flow_settings;
mod flux_meter;
mod hidden;
mod limit;
mod load;
mod lower;
mod policy;
mod sampler;
mod scheduler;
mod selector;
mod signal;
#[cfg(test)]
mod tests;

pub use self::classifier::{Classifier, Extractor};
pub(crate) use self::document::PolicyDocument;
pub use self::flux_meter::FluxMeter;
pub use self::limit::{ConcurrencyLimit, Limit, RateLimit};
pub use self::load::LoadControl;
pub use self::policy::Policy;
pub use self::sampler::{LoadRamp, Sampler};
pub use self::scheduler::{Scheduler, Workload};
pub use self::selector::{LabelMatcher, Selector};
pub use self::signal::Signal;
