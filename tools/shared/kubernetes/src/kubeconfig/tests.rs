//! Kubeconfigs that are accepted, and every form that is not.

use documents::{Diagnostic as _, Exit, Reason};
use serde_json::{Value, json};

use super::*;
use crate::standin;

const SERVER: &str = "https://127.0.0.1:1";

/// Returns the error for a kubeconfig in which `pointer` has another value.
fn refused(pointer: &str, value: Value) -> String {
    let mut kubeconfig: Value =
        serde_json::from_slice(standin::kubeconfig(SERVER, &json!({"token": "hunter2"})).expose())
            .expect("a kubeconfig");
    let (parent, field) = pointer.rsplit_once('/').expect("a pointer");
    kubeconfig.pointer_mut(parent).expect("a parent")[field] = value;
    match Kubeconfig::parse(&Secret::new(kubeconfig.to_string().into_bytes())) {
        Ok(_) => String::new(),
        Err(error) => {
            assert_eq!(
                (error.reason(), error.exit()),
                (Reason::KubeconfigInvalid, Exit::Permanent)
            );
            assert!(!error.to_string().contains("hunter2"), "{error}");
            error.to_string()
        }
    }
}

// hazard: A kubeconfig from a document runs a program, reads a file, or sends the token to others.
// class: A file of others is executed.
// members: exec, auth-provider, four kinds of files, insecure TLS, plain HTTP, a proxy, a login in the URL
// now: `KubeconfigRefused`, exit 100, before any request, in all programs through this function
#[test]
fn every_hostile_setting_is_refused_and_named() {
    let (user, cluster) = ("/users/0/user", "/clusters/0/cluster");
    let program = json!({"apiVersion": "client.authentication.k8s.io/v1", "command": "true"});
    let table = [
        (user, "exec", program, "run programs"),
        (user, "auth-provider", json!({"name": "oidc", "config": {}}), "run programs"),
        (user, "tokenFile", json!("/etc/hostname"), "refers to files"),
        (user, "client-certificate", json!("/etc/hostname"), "refers to files"),
        (user, "client-key", json!("/etc/hostname"), "refers to files"),
        (cluster, "certificate-authority", json!("/etc/hostname"), "refers to files"),
        (cluster, "insecure-skip-tls-verify", json!(true), "insecure-skip-tls-verify"),
        (cluster, "proxy-url", json!("socks5://127.0.0.1:1"), "proxy-url"),
        (cluster, "server", json!("http://10.0.0.1:6443"), "plain HTTP"),
        (cluster, "server", json!("http://127.0.0.1.example.org"), "plain HTTP"),
        (cluster, "server", json!("https://me:hunter2@10.0.0.1"), "holds a login"),
        (cluster, "server", json!("10.0.0.1:6443"), "https URL"),
        (cluster, "server", json!("hunter2 x"), "lacks a server"),
        (cluster, "server", Value::Null, "lacks a server"),
        (cluster, "certificate-authority-data", json!("aHVudGVyMg=="), "certificates or keys"),
        (cluster, "certificate-authority-data", json!("%"), "certificates or keys"),
        (cluster, "tls-server-name", json!("two words"), "tls-server-name"),
        (user, "token", json!("hunter2\n"), "its token"),
        ("", "current-context", json!("other"), "lacks a server"),
        ("", "contexts", json!([]), "lacks a server"),
        ("", "users", json!("hunter2"), "not a valid kubeconfig"),
    ];
    for (parent, field, value, why) in table {
        let text = refused(&format!("{parent}/{field}"), value);
        assert!(text.contains(why), "{field}: {text}");
    }
}

#[test]
fn hostile_setting_of_an_unused_user_or_cluster_is_refused_too() {
    let user = json!({"name": "other", "user": {"tokenFile": "/etc/hostname"}});
    let cluster = json!({"name": "other", "cluster": {"server": "http://10.0.0.1"}});
    let me = json!({"name": "me", "user": {"token": "hunter2"}});
    let lab = json!({"name": "lab", "cluster": {"server": SERVER}});
    assert!(refused("/users", json!([me, user])).contains("refers to files"));
    assert!(refused("/clusters", json!([lab, cluster])).contains("plain HTTP"));
}

#[test]
fn kubeconfig_without_hostile_settings_is_accepted() {
    for server in
        [SERVER, "https://example.org/k8s/clusters/c-1", "http://127.9.9.9:1", "http://[::1]:1"]
    {
        let user = json!({"token": "hunter2", "extensions": [{"name": "x", "extension": {}}]});
        let accepted = Kubeconfig::parse(&standin::kubeconfig(server, &user));
        assert!(accepted.is_ok(), "{server}");
        assert!(!format!("{accepted:?}").contains("hunter2"));
    }
    assert_eq!(refused("/clusters/0/cluster/tls-server-name", json!("api.example.org")), "");
    assert_eq!(refused("/clusters/0/cluster/insecure-skip-tls-verify", json!(false)), "");
    // A user is optional, as in client-go.
    assert_eq!(refused("/users", json!([])), "");
}

#[test]
fn every_form_of_a_credential_is_removed_from_texts() {
    let key =
        "-----BEGIN EC PRIVATE KEY-----\nMHcCAQEEIhunter2key\nAAAA\n-----END EC PRIVATE KEY-----\n";
    let user = AuthInfo {
        password: Some("hunter2password".to_owned().into()),
        token: Some("hunter2token".to_owned().into()),
        client_key_data: Some(BASE64.encode(key.as_bytes()).into()),
        ..AuthInfo::default()
    };
    let redactor = Redactor::new(credentials(&user));
    let shown = format!(
        "hunter2password hunter2token {} {}",
        "MHcCAQEEIhunter2key",
        BASE64.encode(key.as_bytes())
    );
    assert_eq!(redactor.clean(&shown), "[redacted] [redacted] [redacted] [redacted]");
    assert_eq!(redactor.clean("AAAA"), "AAAA", "too short for a credential");
}

#[test]
fn certificates_are_accepted_without_a_text_of_yaml() {
    let accepted = |server| Kubeconfig::from_certificates(server, b"der", "certificate", "key");
    let config = accepted("https://10.0.0.1:6443").expect("accepted").config;
    assert_eq!(config.root_cert, Some(vec![b"der".to_vec()]));
    assert!(config.proxy_url.is_none() && !config.accept_invalid_certs && !config.default_retry);
    assert!(accepted("http://10.0.0.1:6443").is_err(), "plain HTTP would show the requests");
}

// hazard: A machine without a list of certificate authorities cannot use a kubeconfig, and the error blames its keys.
// class: One client does not trust as the others do.
// members: the client of the API server; the clients of HTTP, S3 and Git use `remote::roots`
// now: without an authority of its own, a kubeconfig has those of `remote::roots`; plain HTTP needs none
#[test]
fn kubeconfig_without_an_authority_has_those_of_every_other_client() {
    let authorities = |server| {
        let kubeconfig = standin::kubeconfig(server, &json!({"token": "hunter2"}));
        Kubeconfig::parse(&kubeconfig).expect("accepted").config.root_cert
    };
    assert_eq!(authorities("https://example.org").as_deref(), remote::roots().ok());
    assert_eq!(authorities("http://127.0.0.1:1"), Some(Vec::new()));
}
