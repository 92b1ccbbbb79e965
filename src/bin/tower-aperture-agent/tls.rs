//! Certificates and keys from files.

use std::fs;
use std::path::Path;

use crate::output::Problem;

/// The content of a PEM file, of whatever kind.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, Problem> {
    let pem =
        fs::read(path).map_err(|error| format!("{}: cannot be read: {error}", path.display()))?;
    if !pem.windows(11).any(|window| window == b"-----BEGIN ") {
        let path = path.display();
        return Err(format!("{path}: this is no PEM: it has no line `-----BEGIN …`").into());
    }
    Ok(pem)
}
