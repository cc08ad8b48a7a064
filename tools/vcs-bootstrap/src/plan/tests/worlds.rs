//! Declarations and worlds over which the laws of a plan are checked.

use super::*;
use crate::model::Recorded;

pub(super) fn set<const N: usize>(items: [&str; N]) -> BTreeSet<String> {
    items.into_iter().map(str::to_owned).collect()
}

pub(super) fn rule(approvals: u8) -> Rule {
    Rule {
        branches: set(["main"]),
        require: Require { pull_request: Some(PullRequest { approvals }), ..Require::default() },
        administrators_too: Some(true),
        also_exempt: set([]),
        except: set([]),
        enforced: true,
        forbids_deletion: true,
        forbids_force_push: true,
    }
}

pub(super) fn key(id: u64, read_only: bool) -> SeenKey {
    SeenKey { id, title: "flux".to_owned(), read_only }
}

pub(super) fn named<T>(items: impl IntoIterator<Item = (&'static str, T)>) -> BTreeMap<String, T> {
    items.into_iter().map(|(name, item)| (name.to_owned(), item)).collect()
}

pub(super) fn place(name: &str) -> RepositorySlug {
    RepositorySlug { owner: "owner".to_owned(), name: name.to_owned() }
}

pub(super) fn declarations() -> Vec<Desired> {
    let minimal = Desired {
        place: place("new"),
        default_branch: None,
        variables: BTreeMap::new(),
        settings: Settings::default(),
        topics: None,
        history: None,
        rules: BTreeMap::new(),
        secrets: BTreeMap::new(),
        deploy_keys: BTreeMap::new(),
        allow_publish: false,
        on_destroy: OnDestroy::Archive,
    };
    let history = |push| {
        Some(Pushed {
            push,
            branch: "main".to_owned(),
            commit: Readable::Value("c2".to_owned()),
            tags: named([("v1", "t1".to_owned())]),
        })
    };
    let full = Desired {
        place: place("new"),
        default_branch: Some("main".to_owned()),
        variables: named([("V", "ours".to_owned())]),
        settings: Settings {
            description: Some("ours".to_owned()),
            private: Some(true),
            wiki: Some(false),
            ..Settings::default()
        },
        topics: Some((Mode::Authoritative, set(["a"]))),
        history: history(Push::FastForward),
        rules: named([("main", rule(1))]),
        secrets: named([("S", "mac".to_owned())]),
        deploy_keys: named([("f", DeployKey { title: "flux".to_owned(), key: "k".to_owned() })]),
        allow_publish: false,
        on_destroy: OnDestroy::Archive,
    };
    vec![
        Desired { on_destroy: OnDestroy::Delete, ..full.clone() },
        Desired {
            topics: Some((Mode::Additive, set(["a"]))),
            history: history(Push::OnCreate),
            ..full.clone()
        },
        full,
        minimal,
    ]
}

/// Returns no repository, and a repository for every combination of the states of its parts.
pub(super) fn worlds() -> Vec<ActualState> {
    let plain = |description: &str| Settings {
        description: Some(description.to_owned()),
        homepage: Some(String::new()),
        private: Some(true),
        issues: Some(true),
        wiki: Some(description != "ours"),
        projects: Some(true),
    };
    let behind = Head::Behind("c1".to_owned());
    let recorded =
        |mac: &str| named([("S", Recorded { mac: mac.to_owned(), updated_at: Some("t".into()) })]);
    let rules = [
        (named([]), set([])),
        (named([("main", rule(1))]), set(["main"])),
        (named([("main", rule(2)), ("old", rule(0))]), set(["old"])),
        (named([("main", rule(1)), ("theirs", rule(3))]), set([])),
    ];
    let time = |text: &str| Some(text.to_owned());
    let secrets = [
        (named([]), named([])),
        (named([("S", time("t"))]), recorded("mac")),
        (named([("S", time("later")), ("THEIRS", time("t"))]), recorded("mac")),
        (named([("S", time("t"))]), recorded("old")),
        (named([("S", None)]), named([])),
    ];
    let keys = [
        (named([]), set([])),
        (named([("f", key(1, true)), ("theirs", key(2, false))]), set(["f"])),
        (named([("f", key(1, false)), ("old", key(3, true))]), set(["old"])),
    ];
    let mut worlds = vec![None];
    for (marked, made, archived) in [
        (false, true, false),  // created, then interrupted
        (false, false, false), // created by others
        (true, true, false),
        (true, true, true), // destroyed
        (true, false, false),
    ] {
        let (ours, theirs) = (named([("V", "ours")]), named([("V", "other"), ("OLD", "x")]));
        for (description, topics, former, variables, our_variables) in [
            ("ours", set(["a"]), false, ours, set(["V"])),
            ("theirs", set(["b"]), marked, theirs, set(["OLD"])),
        ] {
            let variables: BTreeMap<_, _> =
                variables.into_iter().map(|(name, value)| (name, value.to_owned())).collect();
            for head in [Head::Absent, Head::Same, behind.clone()] {
                for (rules, our_rules) in &rules {
                    for (secrets, recorded) in &secrets {
                        for (keys, our_keys) in &keys {
                            let receipt = OwnershipRecord {
                                made,
                                archived,
                                rules: our_rules.clone(),
                                deploy_keys: our_keys.clone(),
                                secrets: recorded.clone(),
                                variables: our_variables.clone(),
                            };
                            let mark =
                                if marked { Ownership::Ours(receipt) } else { Ownership::None };
                            worlds.push(Some(Present {
                                id: 7,
                                place: place(if former { "old" } else { "new" }),
                                tags: if former {
                                    named([])
                                } else {
                                    named([("v1", "t1".to_owned())])
                                },
                                has_default_branch: Some(true),
                                variables: variables.clone(),
                                administrator: Some(true),
                                archived,
                                just_created: made && !marked,
                                settings: plain(if made && !marked {
                                    "newborn"
                                } else {
                                    description
                                }),
                                topics: topics.clone(),
                                default_branch: "main".to_owned(),
                                head: Readable::Value(head.clone()),
                                mark: Readable::Value(mark),
                                rules: Readable::Value(rules.clone()),
                                secrets: Readable::Value(secrets.clone()),
                                deploy_keys: Readable::Value(keys.clone()),
                            }));
                        }
                    }
                }
            }
        }
    }
    worlds
}
