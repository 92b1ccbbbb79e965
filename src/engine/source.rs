//! Reads policies and dynamic configuration from files, folders and texts.

use std::collections::HashMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;
use std::{fmt, fs, io};

use crate::policy::{self, PolicyError, PolicyWarning};

/// File names of dynamic configuration end so.
const DYNAMIC: [&str; 2] = [".dynamic.yaml", ".dynamic.yml"];

pub(super) enum Source {
    File(PathBuf),
    Folder(PathBuf),
    Text { name: String, text: String },
}

/// Leaves the texts of policies out, which may name users.
impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            Self::Folder(path) => f.debug_tuple("Folder").field(path).finish(),
            Self::Text { name, .. } => f.debug_tuple("Text").field(name).finish(),
        }
    }
}

/// A policy, or dynamic configuration of one.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Document {
    pub(super) name: Arc<str>,
    pub(super) text: Arc<str>,
    /// The file that had the text; `None` for a text from no file.
    file: Option<FileId>,
    /// Found beside a single file: it may belong to another policy.
    pub(super) is_beside: bool,
}

impl fmt::Debug for Document {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Document").field(&self.name).finish()
    }
}

impl Document {
    pub(super) fn new(name: impl Into<Arc<str>>, text: impl Into<Arc<str>>) -> Self {
        Self {
            name: name.into(),
            text: text.into(),
            file: None,
            is_beside: false,
        }
    }

    /// Returns folder and policy of a name such as `policies/shop.dynamic.yaml`.
    pub(super) fn configures(&self) -> Option<(&str, &str)> {
        let (folder, file) = folder_and_file(&self.name);
        let policy = DYNAMIC.iter().find_map(|end| file.strip_suffix(end))?;
        (!policy.is_empty()).then_some((folder, policy))
    }
}

/// Splits the name of a source after its last separator.
pub(super) fn folder_and_file(name: &str) -> (&str, &str) {
    match name.rfind(['/', '\\']) {
        Some(at) => name.split_at(at + 1),
        None => ("", name),
    }
}

/// Tells a file from one that took its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FileId {
    device: u64,
    inode: u64,
    created: Option<SystemTime>,
}

impl FileId {
    fn of(metadata: &fs::Metadata) -> Self {
        #[cfg(unix)]
        let (device, inode) = {
            use std::os::unix::fs::MetadataExt as _;
            (metadata.dev(), metadata.ino())
        };
        #[cfg(not(unix))]
        let (device, inode) = (0, 0);
        Self {
            device,
            inode,
            created: metadata.created().ok(),
        }
    }
}

/// The content of the sources at one time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Read {
    pub(super) documents: Vec<Document>,
    pub(super) warnings: Vec<PolicyWarning>,
    /// The folders, and how many files each has.
    folders: Vec<(PathBuf, usize)>,
}

/// Polls in a row that have to find the same before a change counts: a file that is renamed into its
/// place is whole, and one that is rewritten in place may be half written.
const REPLACED: u32 = 2;
const REWRITTEN: u32 = 4;

impl Read {
    pub(super) fn of_texts(texts: impl IntoIterator<Item = (String, String)>) -> Self {
        let documents = texts.into_iter();
        Self {
            documents: documents
                .map(|(name, text)| Document::new(name, text))
                .collect(),
            ..Self::default()
        }
    }

    /// Returns the number of polls in a row that have to find this, after `before`, before it counts;
    /// zero if nothing changed.
    ///
    /// # Errors
    ///
    /// When a folder has lost all its files.
    pub(super) fn polls_after(&self, before: &Self) -> Result<u32, PolicyError> {
        for (now, then) in self.folders.iter().zip(&before.folders) {
            if now.1 == 0 && then.1 > 0 {
                let message = "the folder has no policy file any more, and so its policies stay in \
                               force: a reload (SIGHUP) takes it as it is";
                return Err(PolicyError::new(now.0.display().to_string(), message));
            }
        }
        let known = before.documents.iter().map(|one| (&*one.name, one));
        let known: HashMap<&str, &Document> = known.collect();
        let changes = self
            .documents
            .iter()
            .map(|now| match known.get(&*now.name) {
                Some(then) if then.text == now.text => 0,
                Some(then) if then.file == now.file => REWRITTEN,
                Some(_) | None => REPLACED,
            });
        let fewer = match self.documents.len() < known.len() {
            true => REPLACED,
            false => 0,
        };
        Ok(changes.max().unwrap_or(0).max(fewer))
    }
}

/// The sources of policies, and what was last read from them.
#[derive(Debug)]
pub(super) struct Sources {
    pub(super) list: Arc<[Source]>,
    /// The content that was last tried.
    pub(super) tried: Read,
    /// The reason that it is not in force.
    pub(super) refused: Option<PolicyError>,
    /// The reason that the sources cannot be read now.
    pub(super) unreadable: Option<PolicyError>,
    /// The content in force.
    pub(super) in_force: Read,
    /// Dynamic configuration that was set by hand, by policy: of those in force, so it is bounded
    /// by them.
    pub(super) by_hand: HashMap<Arc<str>, Arc<str>>,
}

/// Reads all sources. `again` refuses files that can be read only once, such as a pipe: reading one
/// again would wait for ever.
pub(super) fn read(sources: &[Source], again: bool) -> Result<Read, PolicyError> {
    let mut read = Read::default();
    // Of each folder of single files.
    let mut beside: HashMap<PathBuf, Vec<PathBuf>> = HashMap::new();
    for source in sources {
        match source {
            Source::Text { name, text } => {
                read.documents.push(Document::new(&**name, &**text));
            }
            Source::File(path) => {
                read.documents.push(read_file(path, !again)?);
                let folder = path.parent().unwrap_or(Path::new("")).to_owned();
                beside.entry(folder).or_default().push(path.clone());
            }
            Source::Folder(path) => {
                let files = policy_files(path).map_err(|error| unreadable(path, error))?;
                if files.is_empty() {
                    let message = "there is no .yaml or .yml file in this folder";
                    let path = path.display().to_string();
                    read.warnings.push(PolicyWarning::new(path, message));
                }
                read.folders.push((path.clone(), files.len()));
                for file in files {
                    read.documents.push(read_file(&file, false)?);
                }
            }
        }
    }
    for (folder, given) in beside {
        for file in dynamic_files(&folder) {
            if !given.contains(&file) {
                let document = read_file(&file, false)?;
                read.documents.push(Document {
                    is_beside: true,
                    ..document
                });
            }
        }
    }
    Ok(read)
}

/// Reads a text of a length that a policy may have; a longer one is cut off, and then refused.
fn read_file(path: &Path, pipes: bool) -> Result<Document, PolicyError> {
    let read = || {
        // Opening a pipe waits for a writer.
        if !fs::metadata(path)?.is_file() && !pipes {
            let message = "it is no regular file, and so it cannot be read again";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        let file = fs::File::open(path)?;
        let id = FileId::of(&file.metadata()?);
        let mut bytes = Vec::new();
        file.take(policy::MAX_BYTES as u64 + 1)
            .read_to_end(&mut bytes)?;
        let text = String::from_utf8(bytes).or_else(|error| {
            // Cut off within a character: it is too long anyway.
            match error.utf8_error().error_len() {
                None => Ok(String::from_utf8_lossy(error.as_bytes()).into_owned()),
                Some(_) => Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "it is not UTF-8",
                )),
            }
        })?;
        Ok((text, id))
    };
    let (text, id) = read().map_err(|error| unreadable(path, error))?;
    Ok(Document {
        name: path.display().to_string().into(),
        text: text.into(),
        file: Some(id),
        is_beside: false,
    })
}

fn unreadable(path: &Path, error: io::Error) -> PolicyError {
    PolicyError::unreadable(path.display().to_string(), error)
}

/// The files of a folder, dynamic configuration included. A link that leads nowhere is one, so that
/// it is not overlooked.
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
        if yaml && !hidden && !path.is_dir() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// The files of dynamic configuration in the folder of single files. There are none in a folder
/// that may not be listed.
fn dynamic_files(folder: &Path) -> Vec<PathBuf> {
    let listed = match folder.as_os_str().is_empty() {
        true => fs::read_dir("."),
        false => fs::read_dir(folder),
    };
    let entries = listed.into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let dynamic = |name: &String| {
        let ends = DYNAMIC
            .iter()
            .any(|end| name.len() > end.len() && name.ends_with(end));
        ends && !name.starts_with('.')
    };
    let mut files: Vec<PathBuf> = names
        .filter(dynamic)
        .map(|name| folder.join(name))
        .filter(|path| !path.is_dir())
        .collect();
    files.sort();
    files
}
