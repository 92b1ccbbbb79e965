use std::collections::{BTreeSet, HashSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fs, io, thread};

use super::clock::{Clock, Nanos, SystemClock};
use super::index::Index;
use super::limiters::{Component, Surroundings};
use super::stats::Tally;
use super::store::Limits;
use super::{Engine, Shared};
use crate::policy::{self, Policy, PolicyError, PolicyWarning, Selector};

/// What an absent `agent_group` of a selector means.
const ABSENT_GROUP: &str = "aperture-cloud";
/// The group of an Agent that is given none.
const DEFAULT_GROUP: &str = "default";
const DEFAULT_MAX_KEYS: usize = 1 << 20;

/// Collects policies and settings for an [`Engine`].
///
/// ```
/// use tower_aperture::Engine;
///
/// let error = Engine::builder()
///     .policy_file("no/such/policy.yaml")
///     .agent_group("default")
///     .max_keys(10_000)
///     .build()
///     .unwrap_err();
/// assert_eq!(error.file(), "no/such/policy.yaml");
/// ```
#[derive(Debug)]
pub struct EngineBuilder {
    sources: Vec<Source>,
    agent_group: Option<String>,
    clock: Option<Arc<dyn Clock>>,
    max_keys: usize,
    upstream_ramp_mode: bool,
}

enum Source {
    File(PathBuf),
    Folder(PathBuf),
    Text { name: String, text: String },
}

/// A policy may say who is limited how: it is not shown.
impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            Self::Folder(path) => f.debug_tuple("Folder").field(path).finish(),
            Self::Text { name, .. } => f.debug_tuple("Text").field(name).finish(),
        }
    }
}

impl EngineBuilder {
    pub(super) fn new() -> Self {
        Self {
            sources: Vec::new(),
            agent_group: None,
            clock: None,
            max_keys: DEFAULT_MAX_KEYS,
            upstream_ramp_mode: false,
        }
    }

    /// Adds the policy of a file: a `kind: Policy` resource, a bare policy, or the values of a
    /// blueprint. It is read by [`build`](Self::build).
    #[must_use]
    pub fn policy_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.sources.push(Source::File(path.into()));
        self
    }

    /// Adds a policy from memory. Errors call it by the name; a policy without a name of its own
    /// has that name without its extension.
    #[must_use]
    pub fn policy_text(mut self, name: impl Into<String>, text: impl Into<String>) -> Self {
        self.sources.push(Source::Text {
            name: name.into(),
            text: text.into(),
        });
        self
    }

    /// Adds the policies of all `.yaml` and `.yml` files of a folder, in the order of their
    /// names; folders in it and hidden files are left out.
    #[must_use]
    pub fn policy_folder(mut self, path: impl Into<PathBuf>) -> Self {
        self.sources.push(Source::Folder(path.into()));
        self
    }

    /// The agent group that the engine stands for.
    ///
    /// With a group, selectors apply as on an Agent of that group: one without `agent_group` means
    /// `aperture-cloud`. Without a group, selectors apply that have no `agent_group`, or
    /// `default`. What does not apply is left out and named in a [warning](Engine::warnings).
    #[must_use]
    pub fn agent_group(mut self, group: impl Into<String>) -> Self {
        self.agent_group = Some(group.into());
        self
    }

    /// What to take for the time instead of the system's monotonic clock.
    #[must_use]
    pub fn clock(mut self, clock: impl Clock + 'static) -> Self {
        self.clock = Some(Arc::new(clock));
        self
    }

    /// Whether ramps work as on an Agent of Aperture 2.x, which is not as documented.
    ///
    /// By default, flows in [ramp mode](crate::FlowParams::ramp_mode) run only where a ramp (a
    /// sampler with `ramp_mode`, or a load ramp) lets them, and ramps decide about no other flows.
    /// With this on, all flows in ramp mode are turned away, and ramps are samplers for all others.
    #[must_use]
    pub fn upstream_ramp_mode(mut self, on: bool) -> Self {
        self.upstream_ramp_mode = on;
        self
    }

    /// How many keys one component remembers at most, 1 048 576 by default and at least 1.
    ///
    /// A key takes about 150 bytes and its text. When there is no room for a new key, one that
    /// idled for long goes, and starts anew if it comes back: that is the way around a limit for
    /// those who can make up keys, so the bound should be well above the keys in honest use.
    #[must_use]
    pub fn max_keys(mut self, keys: usize) -> Self {
        self.max_keys = keys.max(1);
        self
    }

    /// Loads the policies. No runtime is needed; nothing is started.
    ///
    /// # Errors
    ///
    /// When a file cannot be read, when a policy is wrong or uses what this version does not
    /// know, and when two policies have the same name. The error names the file, and the line
    /// and field where there is one.
    pub fn build(self) -> Result<Engine, PolicyError> {
        let around = Surroundings {
            limits: Limits {
                keys: self.max_keys,
                shards: shards(),
                max_idle: Nanos::MAX,
            },
            clock: self.clock.unwrap_or_else(|| Arc::new(SystemClock::new())),
            upstream_ramp_mode: self.upstream_ramp_mode,
        };
        let mut index = Index::default();
        let mut warnings = Vec::new();
        let mut names: HashSet<Arc<str>> = HashSet::new();
        for (name, text) in read(self.sources, &mut warnings)? {
            let loaded = policy::load(&name, &text)?;
            let policy = loaded.policy;
            if !names.insert(Arc::clone(&policy.name)) {
                let message = format!(
                    "another policy is named `{}` already: each needs a name of its own",
                    policy.name
                );
                return Err(PolicyError::new(&*name, message));
            }
            warnings.extend(loaded.warnings);
            if let Some(what) = beyond_us(&policy) {
                return Err(unsupported(&name, what));
            }

            let group = self.agent_group.as_deref();
            let mut others = BTreeSet::new();
            for component in &policy.components {
                let (here, elsewhere): (Vec<&Selector>, Vec<&Selector>) = component
                    .selectors
                    .iter()
                    .partition(|selector| applies(selector, group));
                others.extend(elsewhere.into_iter().map(group_of));
                if !here.is_empty() {
                    let limiter = Component::new(&component.kind, &around);
                    index.add(&policy, &component.id, limiter, &here);
                }
            }
            if !others.is_empty() {
                warnings.push(left_out(&name, &policy.name, group, &others));
            }
        }
        for warning in &warnings {
            tell(warning);
        }
        Ok(Engine {
            shared: Arc::new(Shared {
                index,
                clock: around.clock,
                tally: Tally::default(),
                agent_group: self.agent_group,
                warnings,
            }),
        })
    }
}

/// What the loader reads and no part of the engine runs yet.
fn beyond_us(policy: &Policy) -> Option<&'static str> {
    let found = [
        (policy.circuit.is_some(), "a signal that changes"),
        (!policy.classifiers.is_empty(), "a classifier"),
        (!policy.flux_meters.is_empty(), "a flux meter"),
    ];
    found
        .into_iter()
        .find_map(|(found, what)| found.then_some(what))
}

fn unsupported(source: &str, what: &str) -> PolicyError {
    let message =
        format!("needs {what}, which is not supported by the embedded engine of this version");
    PolicyError::new(source, message)
}

fn tell(warning: &PolicyWarning) {
    log_event!(warn, "{warning}");
    let _ = warning;
}

/// Enough that threads seldom meet; a power of two.
fn shards() -> usize {
    let threads = thread::available_parallelism().map_or(4, usize::from);
    (threads * 4).next_power_of_two().clamp(4, 64)
}

fn group_of(selector: &Selector) -> &str {
    selector.agent_group.as_deref().unwrap_or(ABSENT_GROUP)
}

fn applies(selector: &Selector, group: Option<&str>) -> bool {
    match (group, selector.agent_group.as_deref()) {
        (Some(own), _) => group_of(selector) == own,
        (None, named) => named.is_none_or(|named| named == DEFAULT_GROUP),
    }
}

fn left_out(
    source: &str,
    policy: &str,
    group: Option<&str>,
    others: &BTreeSet<&str>,
) -> PolicyWarning {
    let others: Vec<String> = others.iter().map(|other| format!("`{other}`")).collect();
    let others = others.join(", ");
    let own = match group {
        Some(own) => format!("the engine's agent group is `{own}`"),
        None => format!("the engine has no agent group and stands for `{DEFAULT_GROUP}`"),
    };
    PolicyWarning::new(
        source,
        format!("policy `{policy}`: selectors of agent group {others} are left out, because {own}"),
    )
}

/// Names and texts of all policies.
fn read(
    sources: Vec<Source>,
    warnings: &mut Vec<PolicyWarning>,
) -> Result<Vec<(String, String)>, PolicyError> {
    let mut texts = Vec::new();
    for source in sources {
        match source {
            Source::Text { name, text } => texts.push((name, text)),
            Source::File(path) => texts.push(read_file(&path)?),
            Source::Folder(path) => {
                let files = policy_files(&path).map_err(|error| unreadable(&path, &error))?;
                if files.is_empty() {
                    let message = "there is no .yaml or .yml file in this folder";
                    warnings.push(PolicyWarning::new(path.display().to_string(), message));
                }
                for file in files {
                    texts.push(read_file(&file)?);
                }
            }
        }
    }
    Ok(texts)
}

fn read_file(path: &Path) -> Result<(String, String), PolicyError> {
    let text = fs::read_to_string(path).map_err(|error| unreadable(path, &error))?;
    Ok((path.display().to_string(), text))
}

fn unreadable(path: &Path, error: &io::Error) -> PolicyError {
    PolicyError::unreadable(path.display().to_string(), error)
}

fn policy_files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let hidden = path
            .file_name()
            .is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        let yaml = path
            .extension()
            .is_some_and(|extension| extension == "yaml" || extension == "yml");
        if yaml && !hidden && path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}
