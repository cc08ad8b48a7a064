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

/// Returns base64 of the PEM, which is the format of keys in Talos's documents.
pub(crate) fn field(label: &str, der: &[u8]) -> Zeroizing<String> {
    Zeroizing::new(BASE64.encode(pem(label, der).as_bytes()))
}

/// The DER in what [`field`] writes. Nothing, if that is not what `text` is.
pub(crate) fn read_field(text: &str) -> Option<Vec<u8>> {
    let pem = String::from_utf8(BASE64.decode(text.trim().as_bytes()).ok()?).ok()?;
    let mut lines = pem.lines().filter(|line| !line.is_empty());
    lines.next().filter(|line| line.starts_with("-----BEGIN "))?;
    let body: String = lines.take_while(|line| !line.starts_with('-')).collect();
    BASE64.decode(body.as_bytes()).ok()
}
