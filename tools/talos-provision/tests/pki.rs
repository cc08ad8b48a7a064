//! Derived keys and certificates, checked by OpenSSL.

mod support;

use std::fs;
use std::path::Path;
use std::process::Command;

use data_encoding::BASE64;
use jiff::civil::{DateTime, date};
use serde_json::Value;
use talos_provision::pki::{Access, Pki};
use talos_provision::spec::Certificates;
use tempfile::TempDir;

fn dates(text: &str) -> Certificates {
    serde_json::from_str(text).expect("dates")
}

/// Returns noon of a day in November 2026.
fn noon(day: i8) -> DateTime {
    date(2026, 11, day).at(12, 0, 0, 0)
}

fn derived(cluster: &str, dates_text: &str) -> (TempDir, Pki) {
    derived_at(cluster, dates_text, noon(28))
}

fn derived_at(cluster: &str, dates_text: &str, now: DateTime) -> (TempDir, Pki) {
    let folder = tempfile::tempdir().expect("a folder");
    let pki = Pki::derive(&support::phase_key(folder.path()), cluster, &dates(dates_text), now);
    (folder, pki)
}

const DATES: &str = r#"{"notBefore": "2026-11-01", "years": 10}"#;

fn openssl(folder: &Path, line: &str) -> String {
    let run = Command::new("openssl").args(line.split(' ')).current_dir(folder).output();
    let run = run.expect("openssl runs");
    let text = String::from_utf8_lossy(&run.stdout).into_owned();
    let errors = String::from_utf8_lossy(&run.stderr).into_owned();
    assert!(run.status.success(), "openssl {line}: {text}{errors}");
    text
}

fn put(folder: &Path, name: &str, field: &str) {
    let pem = BASE64.decode(field.as_bytes()).expect("base64");
    fs::write(folder.join(name), pem).expect("written");
}

#[test]
fn openssl_accepts_every_authority_until_the_declared_day() {
    let (folder, pki) = derived("prod", DATES);
    let bundle = &pki.bundle;
    let authorities = [
        ("os", &bundle.os, "subject=O = talos", "ED25519"),
        ("etcd", &bundle.etcd, "subject=O = etcd", "ecdsa-with-SHA256"),
        ("k8s", &bundle.kubernetes, "subject=O = kubernetes", "ecdsa-with-SHA256"),
        ("aggregator", &bundle.aggregator, "subject=\n", "ecdsa-with-SHA256"),
    ];
    for (name, pair, subject, algorithm) in authorities {
        put(folder.path(), name, &pair.crt);
        openssl(folder.path(), &format!("verify -CAfile {name} {name}"));
        let text = openssl(folder.path(), &format!("x509 -in {name} -noout -text -subject"));
        assert!(text.contains(subject), "{text}");
        assert!(text.contains(algorithm), "{text}");
        assert!(text.contains("Not Before: Nov  1 00:00:00 2026 GMT"), "{text}");
        assert!(text.contains("Not After : Nov  1 00:00:00 2036 GMT"), "{text}");
        let extensions = [
            "X509v3 Key Usage: critical\n                Digital Signature, Certificate Sign\n",
            "X509v3 Extended Key Usage: \n                TLS Web Server Authentication, TLS Web Client Authentication\n",
            "X509v3 Basic Constraints: critical\n                CA:TRUE\n",
            "X509v3 Subject Key Identifier: \n",
        ];
        let places = extensions.map(|extension| {
            text.find(extension).unwrap_or_else(|| panic!("{extension} in {text}"))
        });
        assert!(places.is_sorted(), "{text}");
        assert!(!text.contains("Authority Key Identifier"), "{text}");
    }
    for (name, pair) in [("etcd", &bundle.etcd), ("k8s", &bundle.kubernetes)] {
        put(folder.path(), "key", &pair.key);
        let of_key = openssl(folder.path(), "pkey -in key -pubout");
        assert_eq!(of_key, openssl(folder.path(), &format!("x509 -in {name} -noout -pubkey")));
    }
    // The PEM label is Talos's own; the bytes under it are standard PKCS#8.
    let os = String::from_utf8(BASE64.decode(bundle.os.key.as_bytes()).expect("base64"));
    let os = os.expect("PEM").replace("ED25519 PRIVATE KEY", "PRIVATE KEY");
    fs::write(folder.path().join("key"), os).expect("written");
    let of_key = openssl(folder.path(), "pkey -in key -pubout");
    assert_eq!(of_key, openssl(folder.path(), "x509 -in os -noout -pubkey"));
    put(folder.path(), "key", &bundle.service_account);
    assert!(openssl(folder.path(), "pkey -in key -text -noout").contains("prime256v1"));
}

/// Returns the talosconfig and the kubeconfig for `access`.
fn files(pki: &Pki, access: Access) -> (Value, Value) {
    let talos = pki.talosconfig(access, "prod", &["127.0.0.1".to_owned()]);
    let kube = pki.kubeconfig(access, "prod", "https://127.0.0.1:6443");
    let parsed = |text: &str| serde_saphyr::from_str(text).expect("YAML");
    (parsed(&talos), parsed(&kube))
}

#[test]
fn openssl_accepts_administrators_and_readers_as_clients_for_weeks_only() {
    for (access, role, group, name) in [
        (Access::Admin, "os:admin", "system:masters", "admin"),
        (Access::Reader, "os:reader", "holistic:readers", "reader"),
    ] {
        are_clients(access, role, group, name);
    }
}

fn are_clients(access: Access, role: &str, group: &str, name: &str) {
    let (folder, pki) = derived("prod", DATES);
    let (talos, kube) = files(&pki, access);
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    let context = &talos["contexts"]["prod"];
    let user = &kube["users"][0]["user"];
    let ca = &kube["clusters"][0]["cluster"]["certificate-authority-data"];
    let clients = [
        (
            text(&context["ca"]),
            text(&context["crt"]),
            format!("subject=O = {role}\n"),
            "Digital Signature\n",
        ),
        (
            text(ca),
            text(&user["client-certificate-data"]),
            format!("subject=O = {group}, CN = {name}\n"),
            "Digital Signature, Key Encipherment\n",
        ),
    ];
    for (ca, crt, subject, usage) in clients {
        put(folder.path(), "ca", &ca);
        put(folder.path(), "crt", &crt);
        openssl(folder.path(), "verify -purpose sslclient -CAfile ca crt");
        let text = openssl(folder.path(), "x509 -in crt -noout -text -subject");
        assert!(text.contains(&subject) && text.contains(usage), "{text}");
        // The second period of 15 days, and the third.
        assert!(text.contains("Not Before: Nov 16 00:00:00 2026 GMT"), "{text}");
        assert!(text.contains("Not After : Dec 16 00:00:00 2026 GMT"), "{text}");
        assert!(
            text.contains(
                "X509v3 Extended Key Usage: \n                TLS Web Client Authentication\n"
            ),
            "{text}"
        );
        assert!(!text.contains("Basic Constraints") && !text.contains("Subject Key Id"), "{text}");
    }
    assert_eq!(kube["current-context"], format!("{name}@prod"));
    assert_eq!(kube["contexts"][0]["context"]["namespace"], "default");
}

#[test]
fn the_same_root_name_and_dates_give_the_same_bytes_and_any_other_gives_others() {
    let all = |cluster: &str, dates: &str| {
        let (_folder, pki) = derived(cluster, dates);
        let kubeconfig = pki.kubeconfig(Access::Admin, cluster, "https://127.0.0.1:6443");
        let kubeconfig = kubeconfig.to_string();
        (pki.bundle.write().to_string(), kubeconfig)
    };
    let first = all("prod", DATES);
    assert_eq!(first, all("prod", DATES));
    assert_ne!(first.0, all("test", DATES).0);
    let later = all("prod", r#"{"notBefore": "2026-11-02", "years": 10}"#);
    assert_ne!(first, later);
    // Only certificates depend on the dates: tokens and keys stay, so that every member stays
    // valid.
    let token = |bundle: &str| {
        bundle.lines().find(|line| line.contains("bootstraptoken")).map(str::to_owned)
    };
    assert_eq!(token(&first.0), token(&later.0));
}

// hazard: A leaked kubeconfig makes an administrator for ten years.
// class: Credentials outlive their use.
// members: certificates in memory, certificates that outlive their authority
// now: a sealed kubeconfig is good for 15 to 30 days
#[test]
fn sealed_credentials_stay_equal_for_half_their_life_and_never_outlive_their_authority() {
    let at = |text: &str, now| {
        let (_folder, pki) = derived_at("prod", text, now);
        pki.kubeconfig(Access::Admin, "prod", "https://127.0.0.1:6443").to_string()
    };
    assert_eq!(at(DATES, noon(16)), at(DATES, noon(30)), "one period of 15 days");
    assert_ne!(at(DATES, noon(15)), at(DATES, noon(16)), "the next one");
    let certificates = dates(r#"{"notBefore": "2026-11-01", "years": 1, "adminDays": 7}"#);
    for hours in (0..9_000).step_by(5) {
        let now = noon(1).saturating_add(jiff::SignedDuration::from_hours(hours));
        let (begin, end) = certificates.period(now);
        assert!(begin >= certificates.not_before() && end <= certificates.not_after());
        if now < certificates.not_after() {
            let left = end.min(certificates.not_after()).duration_since(now);
            let least = jiff::SignedDuration::from_hours(7 * 24 / 2 - 1);
            assert!(begin <= now && (left >= least || end == certificates.not_after()), "{now}");
            assert!(left <= jiff::SignedDuration::from_hours(7 * 24), "{now}");
            let (begin, end) = certificates.run(now);
            assert!(begin <= now && now < end, "{now}");
        }
    }
}

#[test]
fn tokens_have_the_format_of_kubernetes() {
    let (_folder, pki) = derived("prod", DATES);
    for token in [&pki.bundle.bootstrap_token, &pki.bundle.trustd_token] {
        let (id, rest) = token.split_once('.').expect("a dot");
        assert_eq!((id.len(), rest.len()), (6, 16));
        let allowed =
            |character: char| character.is_ascii_lowercase() || character.is_ascii_digit();
        assert!(id.chars().chain(rest.chars()).all(allowed));
    }
    assert_eq!(BASE64.decode(pki.bundle.secret.as_bytes()).expect("base64").len(), 32);
    assert_eq!(BASE64.decode(pki.bundle.secretbox.as_bytes()).expect("base64").len(), 32);
    assert_eq!(
        data_encoding::BASE64URL.decode(pki.bundle.id.as_bytes()).expect("base64").len(),
        32
    );
}

#[test]
fn sealed_kubeconfigs_are_accepted_by_the_programs_that_open_them() {
    let (_folder, pki) = derived("prod", DATES);
    for access in [Access::Admin, Access::Reader] {
        let kubeconfig = pki.kubeconfig(access, "prod", "https://127.0.0.1:6443");
        let secret = secrets::Secret::new(kubeconfig.as_bytes().to_vec());
        kubernetes::Kubeconfig::parse(&secret).expect("an accepted kubeconfig");
    }
}
