//! Guards of a plan: steps that need a readable history, consent or a warning.

use super::*;
use crate::model::LfsObject;

#[test]
fn unreadable_history_is_not_pushed_and_other_steps_are_planned() {
    let refusal =
        Refusal { reason: Reason::Forbidden, what: "history".into(), help: String::new() };
    for_all(|desired, before| {
        let Some(present) = before else { return };
        let blind = Some(Present { head: Readable::Denied(refusal.clone()), ..present.clone() });
        let Plan { steps, refused } = plan(desired, &blind);
        let whole = plan(desired, before).steps;
        assert_eq!(refused.contains(&refusal), desired.history.is_some());
        let of_history = |step: &&Step| {
            !matches!(
                step,
                Step::Push { .. } | Step::PushTags { .. } | Step::ChangeDefaultBranch { .. }
            )
        };
        assert!(steps.iter().all(|step| of_history(&step)));
        let rest: Vec<_> = whole.iter().filter(of_history).cloned().collect();
        assert_eq!(steps, rest, "steps that do not depend on the history are planned");
    });
}

#[test]
fn private_repository_is_published_only_with_consent_and_in_a_separate_step() {
    for_all(|desired, before| {
        let Some(present) = before else { return };
        let settings = Settings { private: Some(false), ..desired.settings.clone() };
        let mut desired = Desired { settings, ..desired.clone() };
        let publishes =
            |plan: &Plan| plan.steps.iter().any(|step| matches!(step, Step::Publish {}));
        let changes = |plan: &Plan| {
            plan.steps.iter().any(
                |step| matches!(step, Step::ChangeSettings { to, .. } if to.private == Some(false)),
            )
        };
        let refused = plan(&desired, before);
        assert!(!publishes(&refused));
        if !present.just_created {
            assert!(!changes(&refused));
            assert!(
                refused.refused.iter().any(|refusal| refusal.reason == Reason::PublishNotAllowed)
            );
            desired.allow_publish = true;
            let allowed = plan(&desired, before);
            assert!(publishes(&allowed) && !changes(&allowed));
            assert_eq!(
                plan(&desired, &take(&allowed.steps, before)),
                Plan::default(),
                "the next plan is empty"
            );
        }
    });
}

// hazard: A document with a former name renames the repository that another person has created under it.
// class: A name is taken for an identity.
// members: a rename, a transfer, both
// now: only a repository with this program's ownership record is renamed
#[test]
fn repository_with_a_former_name_is_moved_only_with_an_ownership_record() {
    let desired = &declarations()[0];
    for present in worlds().into_iter().flatten().step_by(7) {
        for (owner, name) in [("owner", "old"), ("other", "new"), ("other", "old")] {
            let place = RepositorySlug { owner: owner.to_owned(), name: name.to_owned() };
            let moved = Some(Present { place, ..present.clone() });
            let Plan { steps, refused } = plan(desired, &moved);
            if receipt(&moved).is_none() {
                assert_eq!((steps.len(), refused[0].reason), (0, Reason::Conflict));
                continue;
            }
            let is_move =
                |step: &&Step| matches!(step, Step::Rename { .. } | Step::Transfer { .. });
            let expected = usize::from(owner == "other") + usize::from(name == "old");
            assert_eq!(steps.iter().filter(is_move).count(), expected);
            assert_eq!(plan(desired, &take(&steps, &moved)), Plan::default());
        }
    }
}

#[test]
fn values_are_written_before_the_first_push() {
    for_all(|desired, before| {
        let steps = plan(desired, before).steps;
        let is_push = |step: &Step| matches!(step, Step::Push { .. } | Step::PushTags { .. });
        let Some(push) = steps.iter().position(is_push) else { return };
        let is_value =
            |step: &Step| matches!(step, Step::WriteSecret { .. } | Step::WriteVariable { .. });
        assert!(!steps[push..].iter().any(is_value), "{steps:?}");
    });
}

#[test]
fn declared_default_branch_needs_a_branch_but_no_push() {
    let desired = Desired { default_branch: Some("trunk".to_owned()), ..declarations()[3].clone() };
    for present in worlds().into_iter().flatten().filter(|present| !present.archived) {
        for (has, changes, refuses) in
            [(None, false, false), (Some(true), true, false), (Some(false), false, true)]
        {
            let before = Present { has_default_branch: has, ..present.clone() };
            let Plan { steps, refused } = plan(&desired, &Some(before));
            let is_change = |step: &Step| matches!(step, Step::ChangeDefaultBranch { .. });
            assert_eq!(steps.iter().any(is_change), changes);
            assert_eq!(!refused.is_empty(), refuses);
        }
    }
}

/// Returns a strict rule and its variations in one field, each with whether it is weaker.
fn variations() -> Vec<(Rule, bool)> {
    let strict = Rule {
        branches: set(["main"]),
        require: Require {
            pull_request: Some(PullRequest { approvals: 2 }),
            signed_commits: true,
            linear_history: true,
            status_checks: [crate::spec::Line::try_from("test".to_owned()).expect("a line")].into(),
        },
        ..rule(2)
    };
    let with = |change: fn(&mut Rule)| {
        let mut rule = strict.clone();
        change(&mut rule);
        rule
    };
    vec![
        (strict.clone(), false),
        (with(|rule| rule.branches = set(["other"])), true),
        (with(|rule| rule.branches = set(["main", "other"])), false),
        (with(|rule| rule.require.pull_request = None), true),
        (with(|rule| rule.require.pull_request = Some(PullRequest { approvals: 1 })), true),
        (with(|rule| rule.require.pull_request = Some(PullRequest { approvals: 3 })), false),
        (with(|rule| rule.require.signed_commits = false), true),
        (with(|rule| rule.require.linear_history = false), true),
        (with(|rule| rule.require.status_checks.clear()), true),
        (with(|rule| rule.administrators_too = Some(false)), true),
        (with(|rule| rule.also_exempt = set(["user alice"])), true),
        (with(|rule| rule.except = set(["hotfix/*"])), true),
        (with(|rule| rule.enforced = false), true),
        (with(|rule| rule.forbids_deletion = false), true),
        (with(|rule| rule.forbids_force_push = false), true),
    ]
}

#[test]
fn plan_names_every_protection_that_a_rule_loses() {
    let strict = variations().remove(0).0;
    for (to, weaker) in variations() {
        assert_eq!(!to.weakens(&strict).is_empty(), weaker, "{to:?}");
        let before = Present {
            rules: Readable::Value(named([("main", strict.clone())])),
            ..just_created(true, &declarations()[3])
        };
        let desired = Desired { rules: named([("main", to.clone())]), ..declarations()[3].clone() };
        let steps = plan(&desired, &Some(before)).steps;
        let said = steps.iter().find_map(|step| match step {
            Step::PutRule { weakens, .. } => Some(!weakens.is_empty()),
            _ => None,
        });
        assert_eq!(said.unwrap_or_default(), weaker, "{to:?}");
    }
}

#[test]
fn objects_of_git_lfs_are_uploaded_right_before_the_history_that_names_them() {
    let object = |size| LfsObject { path: "x".to_owned(), size, stored: "x".into() };
    let objects = [("a", 1), ("b", 2)].map(|(oid, size)| (oid.to_owned(), object(size)));
    let objects = LfsObjects::from(objects);
    for_all(|desired, before| {
        let whole = plan(desired, before);
        let with = whole.clone().with_lfs(&objects);
        let upload = Step::UploadLfsObjects { objects: 2, bytes: 3 };
        let index = with.steps.iter().position(|step| *step == upload);
        let push = whole.steps.iter().position(|step| matches!(step, Step::Push { .. }));
        assert_eq!(index, push);
        let rest: Vec<_> = with.steps.into_iter().filter(|step| *step != upload).collect();
        assert_eq!((rest, with.refused), (whole.steps.clone(), whole.refused.clone()));
        assert_eq!(whole.clone().with_lfs(&LfsObjects::new()), whole);
    });
}
