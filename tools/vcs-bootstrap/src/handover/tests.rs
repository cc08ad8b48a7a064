//! Configurations over every small world, compared with the schemas of the provider.

use std::collections::BTreeSet;

use opentofu::Configuration;
use serde_json::json;
use testing::tofu::Schema;

use super::*;
use crate::model::{DeployKey, Head, Recorded, RepositorySlug, Rule, SeenKey, Settings};
use crate::spec::{Line, OnDestroy, PullRequest, Require};

/// State of one part of the repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Absent,
    Ours,
    /// Others have created the part.
    Others,
    /// The token may not read the list.
    Hidden,
}

const STATES: [State; 4] = [State::Absent, State::Ours, State::Others, State::Hidden];

/// A world: the repository, its rule, secret, variable and deploy key.
type Parts = (State, [State; 4]);

fn worlds() -> Vec<Parts> {
    let mut worlds = vec![(State::Absent, [State::Absent; 4])];
    for repository in [State::Ours, State::Others] {
        for code in 0..STATES.len().pow(4) {
            let state = |place: u32| STATES[code / STATES.len().pow(place) % STATES.len()];
            worlds.push((repository, [state(0), state(1), state(2), state(3)]));
        }
    }
    worlds
}

fn named<T>(name: &str, value: T) -> BTreeMap<String, T> {
    BTreeMap::from([(name.to_owned(), value)])
}

fn rule() -> Rule {
    let checks = ["test"].map(|check| Line::try_from(check.to_owned()).expect("a line"));
    Rule {
        branches: ["main".to_owned()].into(),
        require: Require {
            pull_request: Some(PullRequest { approvals: 1 }),
            signed_commits: true,
            linear_history: true,
            status_checks: checks.into(),
        },
        administrators_too: Some(false),
        also_exempt: BTreeSet::new(),
        except: BTreeSet::new(),
        enforced: true,
        forbids_deletion: true,
        forbids_force_push: true,
    }
}

fn place() -> RepositorySlug {
    RepositorySlug { owner: "owner".to_owned(), name: "greeter".to_owned() }
}

fn desired() -> Desired {
    let key =
        DeployKey { title: "flux-seed (SHA256:a)".to_owned(), key: "ssh-ed25519 A".to_owned() };
    Desired {
        place: place(),
        settings: Settings {
            description: Some("${ours}".to_owned()),
            private: Some(true),
            wiki: Some(false),
            ..Settings::default()
        },
        topics: Some((Mode::Additive, ["nix".to_owned()].into())),
        history: None,
        default_branch: Some("main".to_owned()),
        rules: named("main", rule()),
        secrets: named("S", "a keyed hash".to_owned()),
        variables: named("V", "ours".to_owned()),
        deploy_keys: named("f", key),
        allow_publish: false,
        on_destroy: OnDestroy::Archive,
    }
}

fn readable<T>(state: State, name: &str, value: T) -> Readable<BTreeMap<String, T>> {
    match state {
        State::Absent => Readable::Value(BTreeMap::new()),
        State::Ours | State::Others => Readable::Value(named(name, value)),
        State::Hidden => Readable::Denied(crate::model::Refusal {
            reason: documents::Reason::Forbidden,
            what: "the token may not read the list".to_owned(),
            help: "use another token".to_owned(),
        }),
    }
}

fn actual((repository, [rule_state, secret, variable, key]): Parts) -> Option<Present> {
    let seen = SeenKey { id: 7, title: "flux-seed (SHA256:a)".to_owned(), read_only: true };
    let ours = |state: State, name: &str| (state == State::Ours).then(|| name.to_owned());
    let recorded = Recorded { mac: "mac".to_owned(), updated_at: None };
    let record = OwnershipRecord {
        made: repository == State::Ours,
        archived: false,
        rules: ours(rule_state, "main").into_iter().collect(),
        deploy_keys: ours(key, "f").into_iter().collect(),
        secrets: ours(secret, "S").into_iter().map(|name| (name, recorded.clone())).collect(),
        variables: ours(variable, "V").into_iter().collect(),
    };
    let variables = readable(variable, "V", "theirs".to_owned());
    let present = Present {
        id: 9,
        place: place(),
        administrator: Some(true),
        archived: false,
        just_created: false,
        settings: Settings {
            description: Some("theirs".to_owned()),
            homepage: Some("https://example.org".to_owned()),
            private: Some(true),
            issues: Some(true),
            wiki: Some(true),
            projects: Some(false),
        },
        topics: ["gitops".to_owned()].into(),
        default_branch: "main".to_owned(),
        head: Readable::Value(Head::Absent),
        tags: BTreeMap::new(),
        has_default_branch: None,
        mark: Readable::Value(Ownership::Ours(record)),
        rules: readable(rule_state, "main", rule()),
        secrets: readable(secret, "S", None),
        variables: variables.value().cloned().unwrap_or_default(),
        deploy_keys: readable(key, "f", seen),
    };
    (repository != State::Absent).then_some(present)
}

/// Returns the ruleset as GitHub describes it, with `more` rules.
fn described(more: &[Json]) -> Json {
    let mut rules = vec![json!({"type": "deletion"})];
    rules.extend(more.iter().cloned());
    json!({"id": 40, "name": "main", "rules": rules, "bypass_actors": []})
}

fn configured(actual: Option<&Present>, ruleset: &Json) -> Json {
    let desired = desired();
    let record = actual.and_then(record);
    let rulesets = match &record {
        Some(record) if record.rules.contains("main") => named("main", ruleset.clone()),
        _ => BTreeMap::new(),
    };
    let world = World { desired: &desired, actual: actual.zip(record.as_ref()), rulesets };
    let provider = Provider {
        name: "github",
        source: "integrations/github",
        version: "~> 6.13",
        arguments: vec![("owner", "owner".into())],
    };
    let configuration =
        Configuration { note: String::new(), provider, resources: world.resources() };
    serde_json::from_str(&configuration.render()).expect("JSON")
}

/// Returns the ids of a configuration, by type of resource.
fn imports(configuration: &Json) -> BTreeMap<String, String> {
    let imports = configuration["import"].as_array().into_iter().flatten();
    let text = |value: &Json| value.as_str().expect("text").to_owned();
    imports
        .map(|import| {
            let to = text(&import["to"]);
            (to.split('.').next().unwrap_or_default().to_owned(), text(&import["id"]))
        })
        .collect()
}

#[test]
fn every_configuration_fits_the_schemas_of_the_provider() {
    let schema = Schema::read("github").expect("schemas");
    let mut kinds = BTreeSet::new();
    for parts in worlds() {
        let configuration = configured(actual(parts).as_ref(), &described(&[]));
        assert_eq!(schema.differences(&configuration), [""; 0], "{parts:?}");
        let resources = configuration["resource"].as_object().into_iter().flatten();
        kinds.extend(resources.map(|(kind, _)| kind.clone()));
    }
    assert_eq!(kinds, schema.kinds().into_iter().map(str::to_owned).collect());
}

#[test]
fn every_object_of_ours_is_imported_and_no_planned_or_foreign_one() {
    for parts in worlds() {
        let (repository, [rule, secret, variable, key]) = parts;
        let configuration = configured(actual(parts).as_ref(), &described(&[]));
        let all = [
            ("github_repository", repository, "greeter"),
            ("github_branch_default", repository, "greeter"),
            ("github_repository_ruleset", rule, "greeter:40"),
            ("github_actions_secret", secret, "greeter:S"),
            ("github_actions_variable", variable, "greeter:V"),
            ("github_repository_deploy_key", key, "greeter:7"),
        ];
        let ours = all.iter().filter(|(_, state, _)| *state == State::Ours);
        let ours: BTreeMap<_, _> =
            ours.map(|(kind, _, id)| ((*kind).to_owned(), (*id).to_owned())).collect();
        assert_eq!(imports(&configuration), ours, "{parts:?}");
        for (kind, state, _) in all {
            // The list of variables is the one with the record, so it is readable when there is a record.
            let is_absent = state == State::Hidden && kind == "github_actions_variable";
            let expected = matches!(state, State::Absent | State::Ours) || is_absent;
            let found = configuration["resource"].get(kind).is_some();
            assert_eq!(found, expected, "{kind} {parts:?}");
        }
    }
}

#[test]
fn repository_that_apply_has_not_adopted_is_not_handed_over() {
    let mut theirs = actual((State::Others, [State::Absent; 4])).expect("a repository");
    theirs.mark = Readable::Value(Ownership::None);
    assert_eq!(record(&theirs), None);
    theirs.mark = Readable::Value(Ownership::Disputed);
    assert_eq!(record(&theirs), None);
    // A creation that was interrupted before the first record is ours.
    theirs.mark = Readable::Value(Ownership::None);
    theirs.just_created = true;
    assert_eq!(record(&theirs).map(|record| record.made), Some(true));
}

#[test]
fn no_value_of_a_secret_is_in_a_configuration() {
    for state in [State::Absent, State::Ours] {
        let parts = (State::Ours, [State::Absent, state, State::Absent, State::Absent]);
        let configuration = configured(actual(parts).as_ref(), &described(&[]));
        let secret = &configuration["resource"]["github_actions_secret"]["greeter-S"];
        assert_eq!(secret["value"], "${var.secret_greeter_S}");
        let variable = &configuration["variable"]["secret_greeter_S"];
        assert_eq!(variable["sensitive"], true);
        assert_eq!(variable.get("default").is_some(), state == State::Ours);
        let ignored = secret["lifecycle"]["ignore_changes"].as_array();
        assert_eq!(ignored.is_some_and(|all| all.contains(&json!("value"))), state == State::Ours);
        assert!(!configuration.to_string().contains("keyed hash"));
    }
}

#[test]
fn declared_settings_are_declared_and_undeclared_ones_as_observed() {
    let ours = actual((State::Ours, [State::Absent; 4]));
    let configuration = configured(ours.as_ref(), &described(&[]));
    let repository = &configuration["resource"]["github_repository"]["greeter"];
    let expected = json!({
        "name": "greeter", "description": "$${ours}", "homepage_url": "https://example.org",
        "has_issues": true, "has_wiki": false, "has_projects": false,
        "topics": ["gitops", "nix"], "archived": false,
    });
    for (name, value) in expected.as_object().expect("fields") {
        assert_eq!(&repository[name], value, "{name}");
    }
    // GitHub's third visibility, `internal`, is private for a document.
    assert!(repository.get("visibility").is_none());
    assert_eq!(repository["lifecycle"]["prevent_destroy"], true);
    let planned = configured(None, &Json::Null);
    let repository = &planned["resource"]["github_repository"]["greeter"];
    assert_eq!((&repository["visibility"], repository.get("lifecycle")), (&json!("private"), None));
}

#[test]
fn rules_that_no_file_expresses_are_ignored_and_not_removed() {
    let parts = (State::Ours, [State::Ours, State::Absent, State::Absent, State::Absent]);
    let ours = actual(parts);
    let with = |more: &[Json]| {
        let configuration = configured(ours.as_ref(), &described(more));
        configuration["resource"]["github_repository_ruleset"]["greeter-main"].clone()
    };
    let plain = with(&[]);
    assert!(plain.get("lifecycle").is_none(), "{plain:#}");
    let actors = json!([{"actor_id": 5, "actor_type": "RepositoryRole", "bypass_mode": "always"}]);
    assert_eq!(plain["bypass_actors"], actors);
    let rules = &plain["rules"][0];
    for kind in ["deletion", "non_fast_forward", "required_signatures", "required_linear_history"] {
        assert_eq!(rules[kind], true, "{kind}");
    }
    assert_eq!(rules["pull_request"][0]["required_approving_review_count"], 1);
    let checks = &rules["required_status_checks"][0]["required_check"];
    assert_eq!(checks, &json!([{"context": "test"}]));
    let include = &plain["conditions"][0]["ref_name"][0]["include"];
    assert_eq!(include, &json!(["refs/heads/main"]));

    let known = json!({"dismiss_stale_reviews_on_push": true, "allowed_merge_methods": ["squash"]});
    let kept = with(&[json!({"type": "pull_request", "parameters": known})]);
    let pull_request = &kept["rules"][0]["pull_request"][0];
    assert_eq!(pull_request["dismiss_stale_reviews_on_push"], true);
    assert_eq!(pull_request["allowed_merge_methods"], json!(["squash"]));
    assert!(kept.get("lifecycle").is_none());

    for unknown in [
        json!({"type": "merge_queue", "parameters": {"max_entries_to_build": 5}}),
        json!({"type": "pull_request", "parameters": {"required_reviewers": [{"minimum_approvals": 1}]}}),
    ] {
        let ignoring = with(&[unknown]);
        assert_eq!(ignoring["lifecycle"]["ignore_changes"], json!(["rules"]), "{ignoring:#}");
    }
}
