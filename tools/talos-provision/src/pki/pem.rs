//! PEM, and the base64 of PEM that Talos's documents contain.

use data_encoding::BASE64;
use zeroize::Zeroizing;

/// Columns of a line of base64.
const COLUMNS: usize = 64;

/// Returns the PEM of `der`. The text may be a key, so it is wiped when it is dropped.
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

/// Returns the DER in a text that [`field`] wrote, or `None` if the text has another format.
pub(crate) fn read_field(text: &str) -> Option<Vec<u8>> {
    let pem = String::from_utf8(BASE64.decode(text.trim().as_bytes()).ok()?).ok()?;
    let mut lines = pem.lines().filter(|line| !line.is_empty());
    lines.next().filter(|line| line.starts_with("-----BEGIN "))?;
    let body: String = lines.take_while(|line| !line.starts_with('-')).collect();
    BASE64.decode(body.as_bytes()).ok()
}
