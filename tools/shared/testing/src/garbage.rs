//! Random values, for tests of parsers.

use proptest::prelude::*;
use serde_json::{Map, Value};

/// Words that one of the parsers knows.
const WORDS: [&str; 32] = [
    "env",
    "file",
    "sops",
    "key",
    "command",
    "firstOf",
    "root",
    "recipients",
    "name",
    "age",
    "endpoints",
    "forge",
    "gitea",
    "github",
    "url",
    "token",
    "store",
    "s3",
    "generations",
    "mac",
    "enc",
    "recipient",
    "lastmodified",
    "https://",
    "http://127.0.0.1",
    "age1",
    "AGE-SECRET-KEY-1",
    "-----BEGIN AGE ENCRYPTED FILE-----\n",
    "ENC[AES256_GCM,data:,iv:,tag:,type:str]",
    "<<",
    "&a",
    "*a",
];

/// Generates a JSON value of few levels.
pub fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        text().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 6, |inner| {
        let names = prop_oneof![word(), text()];
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(names, inner, 0..4)
                .prop_map(|entries| Value::from(entries.into_iter().collect::<Map<_, _>>())),
        ]
    })
}

fn word() -> impl Strategy<Value = String> {
    prop::sample::select(WORDS.to_vec()).prop_map(str::to_owned)
}

/// Generates text, often text that begins with a known word.
pub fn text() -> impl Strategy<Value = String> {
    prop_oneof![any::<String>(), ".{0,40}", word(), (word(), ".{0,20}").prop_map(|(a, b)| a + &b)]
}
