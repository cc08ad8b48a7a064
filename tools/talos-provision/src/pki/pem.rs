//! PEM, and the base64 of PEM that Talos keeps in its documents.

use data_encoding::BASE64;
use zeroize::Zeroizing;

/// Columns of a line.
const COLUMNS: usize = 64;

/// The PEM of `der`. Wiped when it is no longer needed: it may be a key.
pub(crate) fn pem(label: &str, der: &[u8]) -> Zeroizing<String> {
    let body = Zeroizing::new(BASE64.encode(der));
    let mut text = Zeroizing::new(format!("-----BEGIN {label}-----\n"));
    let mut rest = body.as_str();
    while !rest.is_empty() {
        let (line, next) = rest.split_at(rest.len().min(COLUMNS));
        text.push_str(line);
        text.push('\n');
        rest = next;
    }
    text.push_str("-----END ");
    text.push_str(label);
    text.push_str("-----\n");
    text
}

/// As Talos's documents hold it: PEM in base64.
pub(crate) fn field(label: &str, der: &[u8]) -> Zeroizing<String> {
    Zeroizing::new(BASE64.encode(pem(label, der).as_bytes()))
}
