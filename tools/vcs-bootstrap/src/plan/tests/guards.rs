//! Guards of a plan: steps that need a proof, a consent or an announcement.

use super::*;

#[test]
fn an_unreadable_history_is_not_pushed_and_the_rest_is_planned() {
    let refusal =
        Refusal { reason: "PermissionMissing", what: "history".into(), help: String::new() };
    for_all(|wanted, before| {
        let Some(present) = before else { return };
        let blind = Some(Present { head: Readable::Denied(refusal.clone()), ..present.clone() });
        let Plan { steps, refused } = plan(wanted, &blind);
        let whole = plan(wanted, before).steps;
        assert_eq!(refused.contains(&refusal), wanted.history.is_some());
        let of_history =
            |step: &&Step| !matches!(step, Step::Push { .. } | Step::ChangeDefaultBranch { .. });
        assert!(steps.iter().all(|step| of_history(&step)));
        let rest: Vec<_> = whole.iter().filter(of_history).cloned().collect();
        assert_eq!(steps, rest, "what does not depend on the history is planned all the same");
    });
}

#[test]
fn a_private_repository_is_published_only_with_consent_and_in_a_separate_step() {
    for_all(|wanted, before| {
        let Some(present) = before else { return };
        let settings = Settings { private: Some(false), ..wanted.settings.clone() };
        let mut wanted = Wanted { settings, ..wanted.clone() };
        let publishes =
            |plan: &Plan| plan.steps.iter().any(|step| matches!(step, Step::Publish {}));
        let changes = |plan: &Plan| {
            plan.steps.iter().any(
                |step| matches!(step, Step::ChangeSettings { to, .. } if to.private == Some(false)),
            )
        };
        let refused = plan(&wanted, before);
        assert!(!publishes(&refused));
        if !present.just_created {
            assert!(!changes(&refused));
            assert!(refused.refused.iter().any(|refusal| refusal.reason == "PublishNotAllowed"));
            wanted.allow_publish = true;
            let allowed = plan(&wanted, before);
            assert!(publishes(&allowed) && !changes(&allowed));
            assert_eq!(plan(&wanted, &take(&allowed.steps, before)), Plan::default(), "rests");
        }
    });
}

/// Every rule that differs from a strict one in one field, looser or stricter.
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
fn a_plan_names_every_protection_that_a_rule_loses() {
    let strict = variations().remove(0).0;
    for (to, weaker) in variations() {
        assert_eq!(!to.weakens(&strict).is_empty(), weaker, "{to:?}");
        let before = Present {
            rules: Readable::Value(named([("main", strict.clone())])),
            ..just_created(true, &declarations()[3])
        };
        let wanted = Wanted { rules: named([("main", to.clone())]), ..declarations()[3].clone() };
        let steps = plan(&wanted, &Some(before)).steps;
        let said = steps.iter().find_map(|step| match step {
            Step::PutRule { weakens, .. } => Some(!weakens.is_empty()),
            _ => None,
        });
        assert_eq!(said.unwrap_or_default(), weaker, "{to:?}");
    }
}
