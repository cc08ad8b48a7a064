//! Extended attributes: POSIX ACLs, file capabilities and `user.*`. They become pax records
//! `SCHILY.xattr.NAME`, which GNU tar, bsdtar and Go's `archive/tar` read.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};

use rustix::fs::{fgetxattr, flistxattr, lgetxattr, llistxattr};
use rustix::io::Errno;

/// Name and value of each attribute, in the order of the names.
pub(crate) type Attributes = Vec<(Vec<u8>, Vec<u8>)>;

/// Limit of the kernel for a list and for a value (`XATTR_LIST_MAX`, `XATTR_SIZE_MAX` in
/// linux/limits.h).
const BYTES_MAX: usize = 65_536;
/// Label of `SELinux`. It is skipped, because it belongs to the policy of one machine.
const LABEL: &[u8] = b"security.selinux";

/// Returns the attributes of an open file or folder.
pub(crate) fn of(file: BorrowedFd<'_>) -> io::Result<Attributes> {
    collect(|list| flistxattr(file, list), |name, value| fgetxattr(file, name, value))
}

/// Returns the attributes of `entry` in `folder`. The entry is a link, a device or a pipe, which cannot
/// be opened.
pub(crate) fn beside(folder: &OwnedFd, entry: &CStr) -> io::Result<Attributes> {
    let mut path = format!("/proc/self/fd/{}/", folder.as_raw_fd()).into_bytes();
    path.extend(entry.to_bytes());
    let path = CString::new(path)?;
    collect(|list| llistxattr(&path, list), |name, value| lgetxattr(&path, name, value))
}

fn collect(
    list: impl Fn(&mut [u8]) -> rustix::io::Result<usize>,
    get: impl Fn(&CStr, &mut [u8]) -> rustix::io::Result<usize>,
) -> io::Result<Attributes> {
    // A short buffer first, because most entries have no attributes.
    let mut few = [0; 256];
    let mut many = Vec::new();
    let names: &[u8] = match list(&mut few) {
        Ok(length) => &few[..length],
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => return Ok(Vec::new()),
        Err(Errno::RANGE) => {
            many.resize(BYTES_MAX, 0);
            let length = list(&mut many)?;
            &many[..length]
        }
        Err(error) => return Err(error.into()),
    };
    let mut attributes = Vec::new();
    for name in names.split_inclusive(|&byte| byte == 0) {
        let Ok(name) = CStr::from_bytes_with_nul(name) else { continue };
        if name.to_bytes() == LABEL {
            continue;
        }
        let mut value = vec![0; BYTES_MAX];
        match get(name, &mut value) {
            Ok(length) => value.truncate(length),
            // The attribute was removed after the list was read.
            Err(Errno::NODATA) => continue,
            Err(error) => {
                let name = name.to_string_lossy();
                let error = io::Error::from(error);
                return Err(io::Error::new(error.kind(), format!("attribute {name}: {error}")));
            }
        }
        attributes.push((name.to_bytes().to_vec(), value));
    }
    attributes.sort();
    Ok(attributes)
}
