//! DER encoding as far as certificates and keys need it, byte for byte as Go writes it.

use jiff::civil::DateTime;

/// `commonName`, object identifier 2.5.4.3.
pub(crate) const COMMON_NAME: &[u8] = &[0x55, 4, 3];
/// `organizationName`, object identifier 2.5.4.10.
pub(crate) const ORGANIZATION: &[u8] = &[0x55, 4, 10];
/// `keyUsage`, object identifier 2.5.29.15.
pub(crate) const KEY_USAGE: &[u8] = &[0x55, 0x1d, 15];
/// `extKeyUsage`, object identifier 2.5.29.37.
pub(crate) const EXTENDED_KEY_USAGE: &[u8] = &[0x55, 0x1d, 37];
/// `basicConstraints`, object identifier 2.5.29.19.
pub(crate) const BASIC_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 19];
/// `subjectKeyIdentifier`, object identifier 2.5.29.14.
pub(crate) const SUBJECT_KEY_ID: &[u8] = &[0x55, 0x1d, 14];
/// `authorityKeyIdentifier`, object identifier 2.5.29.35.
pub(crate) const AUTHORITY_KEY_ID: &[u8] = &[0x55, 0x1d, 35];
/// `serverAuth`, object identifier 1.3.6.1.5.5.7.3.1.
pub(crate) const SERVER_AUTH: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 1];
/// `clientAuth`, object identifier 1.3.6.1.5.5.7.3.2.
pub(crate) const CLIENT_AUTH: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 2];

pub(crate) fn value(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut bytes = vec![tag];
    let length = content.len().to_be_bytes();
    match length.iter().position(|&byte| byte != 0) {
        Some(first) if content.len() >= 0x80 => {
            let length = &length[first..];
            bytes.push(0x80 | u8::try_from(length.len()).unwrap_or(u8::MAX));
            bytes.extend(length);
        }
        _ => bytes.push(length[length.len() - 1]),
    }
    bytes.extend(content);
    bytes
}

pub(crate) fn sequence(parts: &[&[u8]]) -> Vec<u8> {
    value(0x30, &parts.concat())
}

pub(crate) fn set(parts: &[&[u8]]) -> Vec<u8> {
    value(0x31, &parts.concat())
}

/// Encodes `content` with the explicit context tag `[number]`.
pub(crate) fn explicit(number: u8, content: &[u8]) -> Vec<u8> {
    value(0xa0 | number, content)
}

pub(crate) fn object(id: &[u8]) -> Vec<u8> {
    value(0x06, id)
}

/// Encodes a positive integer from its big-endian bytes.
pub(crate) fn integer(bytes: &[u8]) -> Vec<u8> {
    let first = bytes.iter().position(|&byte| byte != 0).unwrap_or(bytes.len().saturating_sub(1));
    let mut content = bytes[first..].to_vec();
    if content.first().is_none_or(|&byte| byte >= 0x80) {
        content.insert(0, 0);
    }
    value(0x02, &content)
}

pub(crate) fn yes() -> Vec<u8> {
    value(0x01, &[0xff])
}

pub(crate) fn octets(content: &[u8]) -> Vec<u8> {
    value(0x04, content)
}

pub(crate) fn bits(content: &[u8]) -> Vec<u8> {
    value(0x03, &[&[0], content].concat())
}

/// Encodes named bits, with the first bit as the highest, and without trailing zero bits.
pub(crate) fn named_bits(content: u8) -> Vec<u8> {
    let unused = u8::try_from(content.trailing_zeros().min(7)).unwrap_or(7);
    value(0x03, &[unused, content])
}

/// Encodes text as `PrintableString` if its characters allow that, and as `UTF8String` otherwise,
/// as Go does.
pub(crate) fn text(content: &str) -> Vec<u8> {
    let printable =
        |character: char| character.is_ascii_alphanumeric() || " '()+,-./:=?".contains(character);
    let tag = if content.chars().all(printable) { 0x13 } else { 0x0c };
    value(tag, content.as_bytes())
}

/// Encodes a time as `UTCTime` up to 2049, and as `GeneralizedTime` from 2050 on.
pub(crate) fn time(at: DateTime) -> Vec<u8> {
    let rest = at.strftime("%m%d%H%M%SZ");
    match at.year() {
        year @ 1950..2050 => value(0x17, format!("{:02}{rest}", year % 100).as_bytes()),
        year => value(0x18, format!("{year:04}{rest}").as_bytes()),
    }
}

/// Splits the first value off `bytes`: its tag, its content and the rest.
fn first(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = bytes.split_first()?;
    let (&length, mut rest) = rest.split_first()?;
    let mut length = usize::from(length);
    if length >= 0x80 {
        let digits = rest.get(..length - 0x80).filter(|digits| digits.len() <= 4)?;
        rest = &rest[digits.len()..];
        length = digits.iter().fold(0, |sum, digit| sum * 256 + usize::from(*digit));
    }
    Some((tag, rest.get(..length)?, &rest[length..]))
}

/// Returns the `SubjectPublicKeyInfo` of a certificate: algorithm and key (RFC 5280, section 4.1).
pub(crate) fn public_key(certificate: &[u8]) -> Option<&[u8]> {
    let (_, outer, _) = first(certificate)?;
    let (_, mut rest, _) = first(outer)?;
    if first(rest)?.0 == 0xa0 {
        rest = first(rest)?.2; // version
    }
    // Serial number, algorithm, issuer, validity, subject.
    for _ in 0..5 {
        rest = first(rest)?.2;
    }
    let (_, _, after) = first(rest)?;
    Some(&rest[..rest.len() - after.len()])
}
