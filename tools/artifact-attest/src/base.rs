//! Files that every image has beside the build result: users, and certificate authorities if declared.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::spec::Image;

/// File with the certificate authorities, in the place where Debian and most libraries look
/// (<https://go.dev/src/crypto/x509/root_linux.go>).
pub(crate) const CA_FILE: &str = "/etc/ssl/certs/ca-certificates.crt";
/// Contents by path, without leading slash.
pub(crate) type Files = BTreeMap<String, Vec<u8>>;

/// Returns the files of `image`. Runtimes take the group and the home folder of a process from
/// `/etc/passwd`, and many programs fail for a user without an entry.
pub(crate) fn files(image: &Image) -> Files {
    let (user, group) = image.user.split_once(':').unwrap_or((&image.user, &image.user));
    let mut passwd = "root:x:0:0:root:/root:/sbin/nologin\n".to_owned();
    let mut groups = "root:x:0:\n".to_owned();
    if user != "0" {
        let _ = writeln!(passwd, "user:x:{user}:{group}:user:/:/sbin/nologin");
    }
    if group != "0" {
        let _ = writeln!(groups, "user:x:{group}:");
    }
    let mut files = Files::from([
        ("etc/group".to_owned(), groups.into_bytes()),
        ("etc/passwd".to_owned(), passwd.into_bytes()),
    ]);
    if image.ca_certificates {
        files.insert(CA_FILE.trim_start_matches('/').to_owned(), authorities().into_bytes());
    }
    files
}

/// Returns Mozilla's list in PEM, as this version of the program has it built in: the list of the machine
/// would make the image depend on the machine.
fn authorities() -> String {
    remote::to_pem(webpki_root_certs::TLS_SERVER_ROOT_CERTS)
}
