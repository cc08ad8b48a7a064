//! Certificates that Talos's own generator made, encoded again from their contents.

use jiff::civil::DateTime;

use super::certificate::{Certificate, Key, Role, SIGN, SIGN_CERTIFICATES, Subject};
use super::{Bundle, Pair, der};

const SECRETS: &str = include_str!("../../tests/fixtures/talos/secrets.yaml");

/// Splits the first value off `bytes`: its tag, its content and the rest.
fn value(bytes: &[u8]) -> (u8, &[u8], &[u8]) {
    let (mut length, mut at) = (usize::from(bytes[1]), 2);
    if length >= 0x80 {
        let more = length - 0x80;
        length = bytes[2..2 + more].iter().fold(0, |sum, byte| sum * 256 + usize::from(*byte));
        at += more;
    }
    (bytes[0], &bytes[at..at + length], &bytes[at + length..])
}

fn der_of(field: &str) -> Vec<u8> {
    let pem = data_encoding::BASE64.decode(field.as_bytes()).expect("base64");
    let pem = String::from_utf8(pem).expect("PEM is text");
    let body: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
    data_encoding::BASE64.decode(body.as_bytes()).expect("base64")
}

fn time(text: &[u8]) -> DateTime {
    let text = std::str::from_utf8(text).expect("digits");
    DateTime::strptime("%Y%m%d%H%M%SZ", format!("20{text}")).expect("UTCTime")
}

fn key(pair: &Pair) -> Key {
    let der = der_of(&pair.key);
    match der.len() {
        48 => {
            let seed = der[16..].try_into().expect("32 bytes");
            Key::Ed25519(ed25519_dalek::SigningKey::from_bytes(&seed))
        }
        _ => Key::P256(p256::ecdsa::SigningKey::from_slice(&der[7..39]).expect("a scalar")),
    }
}

#[test]
fn certificates_of_talos_are_encoded_to_the_same_bytes() {
    let bundle = Bundle::parse(SECRETS).expect("a bundle");
    let authorities = [
        (&bundle.os, Some("talos"), 322),
        (&bundle.etcd, Some("etcd"), 385),
        (&bundle.kubernetes, Some("kubernetes"), 397),
        (&bundle.aggregator, None, 354),
    ];
    for (pair, organization, size) in authorities {
        let certificate = der_of(&pair.crt);
        assert_eq!(certificate.len(), size, "{organization:?}");
        let (_, outer, _) = value(&certificate);
        let (_, inside, after) = value(outer);
        let signed = &outer[..outer.len() - after.len()];
        let (_, _, rest) = value(inside); // version
        let (_, serial, rest) = value(rest);
        let (_, _, rest) = value(rest); // algorithm
        let (_, _, rest) = value(rest); // issuer
        let (_, validity, _) = value(rest);
        let (_, not_before, rest) = value(validity);
        let (_, not_after, _) = value(rest);
        let key = key(pair);
        let id = &signed[signed.len() - 20..]; // the last extension ends with the key id
        let subject = Subject { organization, common_name: None };
        let again = Certificate {
            serial,
            issuer: subject,
            subject,
            not_before: time(not_before),
            not_after: time(not_after),
            public: &key.public(),
            usage: SIGN | SIGN_CERTIFICATES,
            extended: &[der::SERVER_AUTH, der::CLIENT_AUTH],
            role: Role::Authority(id),
        };
        assert_eq!(again.signed_part(&key), signed, "{organization:?}");
        if organization == Some("talos") {
            assert_eq!(again.sign(&key), certificate, "Ed25519 signs alike everywhere");
        }
    }
}

#[test]
fn keys_of_talos_are_encoded_to_the_same_bytes() {
    let bundle = Bundle::parse(SECRETS).expect("a bundle");
    for pair in [&bundle.os, &bundle.etcd, &bundle.kubernetes, &bundle.aggregator] {
        let key = key(pair);
        assert_eq!(*super::pem::field(key.label(), &key.der()), *pair.key);
    }
}

#[test]
fn a_bundle_is_written_as_it_was_read_except_for_its_comment() {
    let bundle = Bundle::parse(SECRETS).expect("a bundle");
    let (_, rest) = SECRETS.split_once('\n').expect("more than one line");
    assert_eq!(*bundle.write(), rest);
}
