//! Lists of revoked certificates, in files: those that a connection names, else all of the folder
//! `x509crl`. They are read when the daemon starts.

use std::{fs, path::Path, path::PathBuf, sync::Arc};

use ike::trust::RevocationList;
use rustls_pki_types::{CertificateRevocationListDer, pem::PemObject as _};

use super::{
    credential::{is_pem, unread},
    document::read_bounded,
};

/// Longest file, in octets: a list of a hundred thousand certificates has about four million.
const MAX_LIST_OCTETS: u64 = 16 << 20;
/// Files of the folder, and lists of a file.
const MAX_LISTS: usize = 64;

/// All lists of a folder, which need not be there.
pub(super) fn all_of(folder: &Path) -> Result<Vec<Arc<RevocationList>>, String> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Ok(Vec::new());
    };
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    files.retain(|file| file.is_file());
    files.sort();
    if files.len() > MAX_LISTS {
        return Err(format!(
            "{}: holds more than {MAX_LISTS} files",
            folder.display()
        ));
    }
    let mut lists = Vec::new();
    for file in files {
        lists.extend(read(&file)?);
    }
    Ok(lists)
}

/// The lists of one file, in PEM or DER.
pub(super) fn read(path: &Path) -> Result<Vec<Arc<RevocationList>>, String> {
    let about = |what: &dyn std::fmt::Display| format!("{}: {what}", path.display());
    let (octets, _) = read_bounded(path, MAX_LIST_OCTETS).map_err(|error| unread(path, &error))?;
    let list = |der: &[u8]| RevocationList::parse(der).map_err(|error| about(&error));
    if !is_pem(&octets) {
        return Ok(vec![Arc::new(list(&octets)?)]);
    }
    let mut lists = Vec::new();
    for found in CertificateRevocationListDer::pem_slice_iter(&octets).take(MAX_LISTS) {
        let der = found.map_err(|_| about(&"is damaged PEM"))?;
        lists.push(Arc::new(list(der.as_ref())?));
    }
    if lists.is_empty() {
        return Err(about(&"holds no list of revoked certificates"));
    }
    Ok(lists)
}
