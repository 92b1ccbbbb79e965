//! Reads certificates and keys from files.

use std::fs;
use std::path::Path;

use crate::output::CommandError;

/// Returns the content of a PEM file of any kind.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, CommandError> {
    let pem =
        fs::read(path).map_err(|error| format!("{}: cannot be read: {error}", path.display()))?;
    if !pem.windows(11).any(|window| window == b"-----BEGIN ") {
        let path = path.display();
        return Err(format!("{path}: the file is not PEM: it has no line `-----BEGIN …`").into());
    }
    Ok(pem)
}
