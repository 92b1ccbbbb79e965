//! Reads policies and dynamic configuration from files, folders, texts and code.

use std::collections::HashMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;
use std::{fmt, fs, io};

use crate::policy::{self, PolicyDocument, PolicyError, PolicyWarning};

/// The ends of file names that hold dynamic configuration.
const DYNAMIC_SUFFIXES: [&str; 2] = [".dynamic.yaml", ".dynamic.yml"];

pub(super) enum PolicySource {
    File(PathBuf),
    Folder(PathBuf),
    Text {
        name: String,
        text: String,
    },
    /// A policy in code; its error is returned when the sources are read.
    Code(Result<PolicyDocument, PolicyError>),
}

/// Omits the texts of policies, which may name users.
impl fmt::Debug for PolicySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            Self::Folder(path) => f.debug_tuple("Folder").field(path).finish(),
            Self::Text { name, .. } => f.debug_tuple("Text").field(name).finish(),
            Self::Code(document) => f.debug_tuple("Code").field(document).finish(),
        }
    }
}

/// A policy, or dynamic configuration of one.
#[derive(Clone, PartialEq)]
pub(super) struct Document {
    pub(super) name: Arc<str>,
    pub(super) text: Arc<str>,
    /// The file that the text was read from; `None` for a text in memory.
    file: Option<FileId>,
    /// The policy, if it was built in code.
    pub(super) code: Option<PolicyDocument>,
    /// True for dynamic configuration that was found beside a single policy file: it may belong to
    /// a policy that the engine does not load.
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
            code: None,
            is_beside: false,
        }
    }

    fn of_code(policy: &PolicyDocument) -> Self {
        Self {
            code: Some(policy.clone()),
            ..Self::new(Arc::clone(&policy.source), Arc::clone(&policy.text))
        }
    }

    /// Returns folder and policy name of a name such as `policies/shop.dynamic.yaml`; `None` for
    /// other names.
    pub(super) fn configures(&self) -> Option<(&str, &str)> {
        let (folder, file) = folder_and_file(&self.name);
        let policy = DYNAMIC_SUFFIXES
            .iter()
            .find_map(|suffix| file.strip_suffix(suffix))?;
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

/// Distinguishes a file from another file that replaced it.
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

/// The contents of the sources at one time.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct SourceContents {
    pub(super) documents: Vec<Document>,
    pub(super) warnings: Vec<PolicyWarning>,
    /// The folders, each with its number of files.
    folders: Vec<(PathBuf, usize)>,
}

/// The number of consecutive polls that must find the same before a change is put in force: a file
/// that is renamed into place is complete, whereas a file that is rewritten in place may be half
/// written.
const POLLS_IF_REPLACED: u32 = 2;
const POLLS_IF_REWRITTEN: u32 = 4;

impl SourceContents {
    pub(super) fn of_texts(texts: impl IntoIterator<Item = (String, String)>) -> Self {
        let documents = texts.into_iter();
        Self {
            documents: documents
                .map(|(name, text)| Document::new(name, text))
                .collect(),
            ..Self::default()
        }
    }

    /// Returns the number of consecutive polls that must find these contents, after `before`, until
    /// they are put in force; zero if nothing changed.
    ///
    /// # Errors
    ///
    /// Returns an error if a folder has lost all its files.
    pub(super) fn polls_needed_after(&self, before: &Self) -> Result<u32, PolicyError> {
        for (now, then) in self.folders.iter().zip(&before.folders) {
            if now.1 == 0 && then.1 > 0 {
                let message = "the folder has lost all its policy files, so its policies stay in force; \
                               a reload (SIGHUP) would remove them";
                return Err(PolicyError::new(now.0.display().to_string(), message));
            }
        }
        let known = before
            .documents
            .iter()
            .map(|document| (&*document.name, document));
        let known: HashMap<&str, &Document> = known.collect();
        let changes = self
            .documents
            .iter()
            .map(|now| match known.get(&*now.name) {
                Some(then) if then.text == now.text => 0,
                Some(then) if then.file == now.file => POLLS_IF_REWRITTEN,
                Some(_) | None => POLLS_IF_REPLACED,
            });
        let removal = match self.documents.len() < known.len() {
            true => POLLS_IF_REPLACED,
            false => 0,
        };
        Ok(changes.max().unwrap_or(0).max(removal))
    }
}

/// The sources of policies, and their contents that were last read.
#[derive(Debug)]
pub(super) struct PolicySources {
    pub(super) list: Arc<[PolicySource]>,
    /// The contents that were last loaded, successfully or not.
    pub(super) last_tried: SourceContents,
    /// The error of that load, if it failed.
    pub(super) refusal: Option<PolicyError>,
    /// The error of the last attempt to read the sources, if it failed.
    pub(super) read_error: Option<PolicyError>,
    /// The contents in force.
    pub(super) in_force: SourceContents,
    /// Dynamic configuration that was set at run time, by policy. It is bounded by the policies in
    /// force, because other entries are removed.
    pub(super) dynamic_overrides: HashMap<Arc<str>, Arc<str>>,
}

/// Reads all sources. In a reload, files that can be read only once, such as pipes, are refused:
/// reading one again would block for ever.
pub(super) fn read(
    sources: &[PolicySource],
    is_reload: bool,
) -> Result<SourceContents, PolicyError> {
    let mut contents = SourceContents::default();
    // The folders of single files, each with the files that were given.
    let mut single_file_folders: HashMap<PathBuf, Vec<PathBuf>> = HashMap::new();
    for source in sources {
        match source {
            PolicySource::Text { name, text } => {
                contents.documents.push(Document::new(&**name, &**text));
            }
            PolicySource::Code(policy) => {
                let policy = policy.as_ref().map_err(Clone::clone)?;
                contents.documents.push(Document::of_code(policy));
            }
            PolicySource::File(path) => {
                contents.documents.push(read_file(path, !is_reload)?);
                let folder = path.parent().unwrap_or(Path::new("")).to_owned();
                single_file_folders
                    .entry(folder)
                    .or_default()
                    .push(path.clone());
            }
            PolicySource::Folder(path) => {
                let files = policy_files(path).map_err(|error| read_error(path, error))?;
                if files.is_empty() {
                    let message = "there is no .yaml or .yml file in this folder";
                    let path = path.display().to_string();
                    contents.warnings.push(PolicyWarning::new(path, message));
                }
                contents.folders.push((path.clone(), files.len()));
                for file in files {
                    contents.documents.push(read_file(&file, false)?);
                }
            }
        }
    }
    for (folder, given) in single_file_folders {
        for file in dynamic_files(&folder) {
            if !given.contains(&file) {
                let document = read_file(&file, false)?;
                contents.documents.push(Document {
                    is_beside: true,
                    ..document
                });
            }
        }
    }
    Ok(contents)
}

/// Reads a text up to the maximum length of a policy plus one byte; the policy parser refuses a
/// longer text.
fn read_file(path: &Path, allow_pipes: bool) -> Result<Document, PolicyError> {
    let (bytes, id) = read_bytes(path, allow_pipes).map_err(|error| read_error(path, error))?;
    let name: Arc<str> = path.display().to_string().into();
    let text = String::from_utf8(bytes).or_else(|error| {
        let wrong = error.utf8_error();
        // The cut of a long text may have split its last character. The parser then refuses the
        // text for its length.
        if wrong.error_len().is_none() && error.as_bytes().len() > policy::MAX_BYTES {
            return Ok(String::from_utf8_lossy(error.as_bytes()).into_owned());
        }
        let offset = wrong.valid_up_to();
        let message = format!("the byte at offset {offset} is not UTF-8; save the file as UTF-8");
        Err(PolicyError::new(Arc::clone(&name), message))
    })?;
    Ok(Document {
        name,
        text: text.into(),
        file: Some(id),
        code: None,
        is_beside: false,
    })
}

fn read_bytes(path: &Path, allow_pipes: bool) -> io::Result<(Vec<u8>, FileId)> {
    // Checked first, because opening a pipe waits for a writer.
    if !fs::metadata(path)?.is_file() && !allow_pipes {
        let message = "not a regular file, so it cannot be read again";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    }
    let file = fs::File::open(path)?;
    let id = FileId::of(&file.metadata()?);
    let mut bytes = Vec::new();
    file.take(policy::MAX_BYTES as u64 + 1)
        .read_to_end(&mut bytes)?;
    Ok((bytes, id))
}

fn read_error(path: &Path, error: io::Error) -> PolicyError {
    PolicyError::unreadable(path.display().to_string(), error)
}

/// Returns the files of a folder, dynamic configuration included. A dangling link is included, so
/// that it produces an error.
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

/// Returns the files of dynamic configuration in the folder of single files; none if the folder
/// cannot be listed.
fn dynamic_files(folder: &Path) -> Vec<PathBuf> {
    let listed = match folder.as_os_str().is_empty() {
        true => fs::read_dir("."),
        false => fs::read_dir(folder),
    };
    let entries = listed.into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let dynamic = |name: &String| {
        let has_suffix = DYNAMIC_SUFFIXES
            .iter()
            .any(|suffix| name.len() > suffix.len() && name.ends_with(suffix));
        has_suffix && !name.starts_with('.')
    };
    let mut files: Vec<PathBuf> = names
        .filter(dynamic)
        .map(|name| folder.join(name))
        .filter(|path| !path.is_dir())
        .collect();
    files.sort();
    files
}
