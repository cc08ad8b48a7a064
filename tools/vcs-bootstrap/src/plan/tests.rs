//! Laws of `plan` and `plan_destroy`, checked over every small world.

use super::*;
use crate::model::{DeployKey, RepositorySlug, Rule, SeenKey};
use crate::spec::{PullRequest, Require};

mod guards;
mod worlds;

use worlds::{declarations, key, named, rule, set, worlds};

/// Time at which steps write secrets in these worlds.
const NOW: &str = "now";

fn list<T>(section: &mut Readable<BTreeMap<String, T>>) -> &mut BTreeMap<String, T> {
    match section {
        Readable::Value(list) => list,
        Readable::Denied(_) => panic!("a step changes an unreadable list"),
    }
}

/// Returns the world after `step`, as the forges behave.
fn after(step: &Step, actual: ActualState) -> ActualState {
    if let Step::Create { private } = step {
        assert_eq!(actual, None, "nothing is created twice");
        let all = Settings {
            description: Some("newborn".to_owned()),
            homepage: Some(String::new()),
            private: Some(*private),
            issues: Some(true),
            wiki: Some(true),
            projects: Some(true),
        };
        let minimal = declarations().pop().expect("the smallest declaration");
        return Some(Present { id: 7, settings: all, ..just_created(*private, &minimal) });
    }
    let mut repository = actual.expect("every step other than the first needs a repository");
    assert!(
        !repository.archived || matches!(step, Step::Unarchive {} | Step::Delete {}),
        "an archived repository accepts no change: {step}"
    );
    match step.clone() {
        Step::Create { .. } | Step::UploadLfsObjects { .. } => {}
        Step::Unarchive {} => repository.archived = false,
        Step::Archive {} => repository.archived = true,
        Step::Delete {} => return None,
        Step::Record { mut receipt, times_of } => {
            for name in times_of {
                let time = list(&mut repository.secrets).get(&name).cloned().flatten();
                receipt.secrets.get_mut(&name).expect("a secret just written").updated_at = time;
            }
            repository.mark = Readable::Value(Ownership::Ours(receipt));
        }
        Step::Forget {} => repository.mark = Readable::Value(Ownership::None),
        Step::ChangeSettings { to, .. } => {
            repository.just_created &= to.description.is_none();
            let old = repository.settings;
            repository.settings = Settings {
                description: to.description.or(old.description),
                homepage: to.homepage.or(old.homepage),
                private: to.private.or(old.private),
                issues: to.issues.or(old.issues),
                wiki: to.wiki.or(old.wiki),
                projects: to.projects.or(old.projects),
            };
        }
        Step::Rename { to, .. } => repository.place.name = to,
        Step::Transfer { to, .. } => repository.place.owner = to,
        Step::Push { tags, .. } => {
            repository.head = Readable::Value(Head::Same);
            repository.default_branch = "main".to_owned();
            repository.tags.extend(tags);
        }
        Step::PushTags { tags } => repository.tags.extend(tags),
        Step::ChangeDefaultBranch { to, .. } => repository.default_branch = to,
        Step::SetTopics { to, .. } => repository.topics = to,
        Step::WriteSecret { name, .. } => {
            list(&mut repository.secrets).insert(name, Some(NOW.to_owned()));
        }
        Step::WriteVariable { name, from, to } => {
            assert_eq!(repository.variables.insert(name, to), from);
        }
        Step::RemoveVariable { name } => drop(repository.variables.remove(&name)),
        Step::RemoveSecret { name } => drop(list(&mut repository.secrets).remove(&name)),
        Step::AddDeployKey { fingerprint, .. } => {
            assert!(list(&mut repository.deploy_keys).insert(fingerprint, key(9, true)).is_none());
        }
        Step::RemoveDeployKey { fingerprint, .. } => {
            list(&mut repository.deploy_keys).remove(&fingerprint);
        }
        Step::Publish {} => repository.settings.private = Some(false),
        Step::PutRule { name, to, .. } => drop(list(&mut repository.rules).insert(name, to)),
        Step::RemoveRule { name } => drop(list(&mut repository.rules).remove(&name)),
    }
    Some(repository)
}

fn take(steps: &[Step], actual: &ActualState) -> ActualState {
    steps.iter().fold(actual.clone(), |actual, step| after(step, actual))
}

fn for_all(law: impl Fn(&Desired, &ActualState)) {
    for desired in declarations() {
        for before in worlds() {
            law(&desired, &before);
        }
    }
}

fn receipt(actual: &ActualState) -> Option<OwnershipRecord> {
    recorded(actual.as_ref()?).flatten()
}

#[test]
fn plan_reaches_the_declared_state_and_is_then_empty() {
    for_all(|desired, before| {
        let Plan { steps, refused } = plan(desired, before);
        assert_eq!(refused, [], "{before:?}");
        let actual = take(&steps, before);
        let after = actual.as_ref().expect("the repository");
        assert_eq!(
            desired.settings.changed_from(&after.settings),
            Settings::default(),
            "as declared"
        );
        assert!(!after.archived && !after.just_created, "as declared");
        for (name, rule) in &desired.rules {
            assert!(rule.is_met_by(&after.rules.value().expect("known")[name]), "as declared");
        }
        for (name, mac) in &desired.secrets {
            assert!(after.secrets.value().expect("known").contains_key(name), "as declared");
            assert_eq!(receipt(&actual).expect("a receipt").secrets[name].mac, *mac, "as declared");
        }
        assert_eq!(after.place, desired.place, "as declared");
        for (name, value) in &desired.variables {
            assert_eq!(after.variables.get(name), Some(value), "as declared");
        }
        for fingerprint in desired.deploy_keys.keys() {
            assert!(
                after.deploy_keys.value().expect("known")[fingerprint].read_only,
                "as declared"
            );
        }
        if desired.history.as_ref().is_some_and(|history| history.push == Push::FastForward) {
            assert_eq!(after.head, Readable::Value(Head::Same), "as declared");
            assert!(after.tags.contains_key("v1"), "as declared");
        }
        assert_eq!(
            plan(desired, &actual),
            Plan::default(),
            "the next plan is empty after {steps:?}"
        );
    });
}

#[test]
fn apply_and_destroy_execute_the_steps_that_the_first_plan_shows() {
    for plan_of in [plan, plan_destroy] {
        for_all(|desired, before| {
            let shown = plan_of(desired, before).steps;
            let (mut actual, mut executed) = (before.clone(), Vec::new());
            loop {
                let round = plan_of(desired, &actual).steps;
                if round.is_empty() {
                    break;
                }
                actual = take(&round, &actual);
                executed.extend(round);
                assert!(executed.len() <= shown.len(), "{executed:?} of {shown:?}");
            }
            assert_eq!(executed, shown);
        });
    }
}

#[test]
fn plan_leaves_undeclared_resources_unchanged() {
    for_all(|desired, before| {
        let Some(was) = before else { return };
        let actual = take(&plan(desired, before).steps, before);
        let is = actual.as_ref().expect("the repository");
        let ours = receipt(before).unwrap_or_default();
        for (name, value) in &was.variables {
            if !desired.variables.contains_key(name) && !ours.variables.contains(name) {
                assert_eq!(is.variables.get(name), Some(value));
            }
        }
        for (name, rule) in was.rules.value().expect("known") {
            if !desired.rules.contains_key(name) && !ours.rules.contains(name) {
                assert_eq!(is.rules.value().expect("known").get(name), Some(rule));
            }
        }
        for (name, time) in was.secrets.value().expect("known") {
            if !desired.secrets.contains_key(name) && !ours.secrets.contains_key(name) {
                assert_eq!(is.secrets.value().expect("known").get(name), Some(time));
            }
        }
        for (fingerprint, key) in was.deploy_keys.value().expect("known") {
            if !desired.deploy_keys.contains_key(fingerprint)
                && !ours.deploy_keys.contains(fingerprint)
            {
                assert_eq!(is.deploy_keys.value().expect("known").get(fingerprint), Some(key));
            }
        }
        if desired.topics.as_ref().is_none_or(|(mode, _)| *mode == Mode::Additive) {
            assert!(was.topics.is_subset(&is.topics));
        }
        if desired.settings.description.is_none() && !was.just_created {
            assert_eq!(was.settings, is.settings);
        }
        let made = was.just_created || ours.made;
        assert_eq!(
            receipt(&actual).expect("a receipt").made,
            made,
            "an adopted repository never counts as created"
        );
    });
}

#[test]
fn apply_reaches_the_same_state_after_an_interruption_at_any_step() {
    for_all(|desired, before| {
        let Plan { steps, .. } = plan(desired, before);
        let whole = take(&steps, before);
        let mut half = before.clone();
        for step in &steps {
            let Plan { steps: rest, refused } = plan(desired, &half);
            assert_eq!(refused, []);
            let again = take(&rest, &half);
            // The interruption does not change which rules and keys the ownership record lists.
            assert_eq!(receipt(&again), receipt(&whole), "{steps:?} then {rest:?}");
            assert_eq!(plan(desired, &again), Plan::default());
            half = take(std::slice::from_ref(step), &half);
        }
    });
}

#[test]
fn plan_destroy_removes_only_what_the_program_created_and_is_then_empty() {
    for_all(|desired, before| {
        let Plan { steps, refused } = plan_destroy(desired, before);
        assert_eq!(refused, []);
        let actual = take(&steps, before);
        assert_eq!(
            plan_destroy(desired, &actual),
            Plan::default(),
            "the next plan is empty after {steps:?}"
        );
        let Some(was) = before else { return };
        let ours = receipt(before);
        let made = was.just_created || ours.as_ref().is_some_and(|receipt| receipt.made);
        let Some(is) = &actual else {
            assert!(
                made && desired.on_destroy == OnDestroy::Delete,
                "deletes only a repository that the program created"
            );
            return;
        };
        assert_eq!(is.archived, made, "archives only a repository that the program created");
        if was.archived {
            return; // an archived repository accepts no changes
        }
        let ours = ours.unwrap_or_default();
        assert!(ours.variables.iter().all(|name| !is.variables.contains_key(name)), "removed");
        let left = |name: &&String| !ours.variables.contains(*name);
        let kept = was.variables.keys().filter(left);
        assert!(kept.into_iter().all(|name| is.variables.contains_key(name)));
        let secrets = is.secrets.value().expect("known");
        assert!(ours.secrets.keys().all(|name| !secrets.contains_key(name)), "removed");
        let keys = is.deploy_keys.value().expect("known");
        assert!(
            ours.deploy_keys.iter().all(|fingerprint| !keys.contains_key(fingerprint)),
            "removed"
        );
        let rules = is.rules.value().expect("known");
        assert!(made || ours.rules.iter().all(|name| !rules.contains_key(name)), "removed");
        let left = |name: &String| !ours.secrets.contains_key(name);
        assert!(
            was.secrets
                .value()
                .expect("known")
                .keys()
                .filter(|name| left(name))
                .all(|name| secrets.contains_key(name))
        );
        let left = |fingerprint: &String| !ours.deploy_keys.contains(fingerprint);
        assert!(
            was.deploy_keys
                .value()
                .expect("known")
                .keys()
                .filter(|fingerprint| left(fingerprint))
                .all(|fingerprint| { keys.contains_key(fingerprint) })
        );
        assert_eq!((&was.settings, &was.topics, &was.head), (&is.settings, &is.topics, &is.head));
    });
}

#[test]
fn interrupted_destroy_reaches_the_same_state() {
    for_all(|desired, before| {
        let Plan { steps, .. } = plan_destroy(desired, before);
        let whole = take(&steps, before);
        for taken in 0..steps.len() {
            let half = take(&steps[..taken], before);
            assert_eq!(take(&plan_destroy(desired, &half).steps, &half), whole, "{steps:?}");
        }
    });
}

#[test]
fn destroyed_repository_can_be_applied_again() {
    for_all(|desired, before| {
        let gone = take(&plan_destroy(desired, before).steps, before);
        // Without the record, a former name proves nothing any more.
        let is_forgotten = receipt(&gone).is_none();
        if is_forgotten && gone.as_ref().is_some_and(|gone| gone.place != desired.place) {
            return;
        }
        let back = take(&plan(desired, &gone).steps, &gone);
        assert_eq!(plan(desired, &back), Plan::default());
    });
}

#[test]
fn an_unreadable_part_is_neither_changed_nor_removed() {
    let refusal = Refusal { reason: Reason::Forbidden, what: "rules".into(), help: String::new() };
    for_all(|desired, before| {
        let Some(present) = before else { return };
        let blind = Some(Present { rules: Readable::Denied(refusal.clone()), ..present.clone() });
        let Plan { steps, refused } = plan(desired, &blind);
        let ours = receipt(before).unwrap_or_default();
        assert_eq!(refused.is_empty(), desired.rules.is_empty() && ours.rules.is_empty());
        take(&steps, &blind); // panics when a step changes an unreadable list
        let kept = steps.iter().filter_map(|step| match step {
            Step::Record { receipt, .. } => Some(&receipt.rules),
            _ => None,
        });
        assert!(
            kept.into_iter().all(|rules| *rules == ours.rules),
            "the ownership record keeps the entries of an unreadable list"
        );
        let blind = Some(Present { mark: Readable::Denied(refusal.clone()), ..present.clone() });
        assert_eq!(plan(desired, &blind), Plan { steps: vec![], refused: vec![refusal.clone()] });
        let disputed = Present { mark: Readable::Value(Ownership::Disputed), ..present.clone() };
        let plan = plan(desired, &Some(disputed));
        assert_eq!((plan.steps, plan.refused[0].reason), (vec![], Reason::OwnershipDisputed));
    });
}

#[test]
fn diverged_history_is_never_pushed() {
    let desired = &declarations()[0];
    for actual in worlds().into_iter().flatten().filter(|present| !present.archived) {
        let elsewhere = Readable::Value(Head::Elsewhere("c9".to_owned()));
        let Plan { steps, refused } = plan(desired, &Some(Present { head: elsewhere, ..actual }));
        assert_eq!(refused[0].reason, Reason::HistoryDiverged);
        assert!(!steps.iter().any(|step| matches!(step, Step::Push { .. })));
    }
}
