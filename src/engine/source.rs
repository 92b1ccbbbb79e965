//! Where policies come from.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::{fmt, fs, io};

use crate::policy::{PolicyError, PolicyWarning};

pub(super) enum Source {
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

/// What the sources hold at one time.
#[derive(Debug, Default)]
pub(super) struct Read {
    /// Names and texts of all policies.
    pub(super) texts: Vec<(String, String)>,
    pub(super) warnings: Vec<PolicyWarning>,
}

impl Read {
    /// Other for other texts, as good as always.
    pub(super) fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.texts.hash(&mut hasher);
        hasher.finish()
    }
}

/// Where policies come from, and what was found there last.
#[derive(Debug)]
pub(super) struct Sources {
    pub(super) list: Vec<Source>,
    /// The [fingerprint](Read::fingerprint) of what was tried last; `None` when it could not be
    /// read.
    pub(super) tried: Option<u64>,
    /// Why that is not in force.
    pub(super) problem: Option<PolicyError>,
}

pub(super) fn read(sources: &[Source]) -> Result<Read, PolicyError> {
    let (mut texts, mut warnings) = (Vec::new(), Vec::new());
    for source in sources {
        match source {
            Source::Text { name, text } => texts.push((name.clone(), text.clone())),
            Source::File(path) => texts.push(read_file(path)?),
            Source::Folder(path) => {
                let files = policy_files(path).map_err(|error| unreadable(path, error))?;
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
    Ok(Read { texts, warnings })
}

fn read_file(path: &Path) -> Result<(String, String), PolicyError> {
    let text = fs::read_to_string(path).map_err(|error| unreadable(path, error))?;
    Ok((path.display().to_string(), text))
}

fn unreadable(path: &Path, error: io::Error) -> PolicyError {
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
