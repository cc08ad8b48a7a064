// What otterdog reads and compares for the organisation of ../foreign.rs: the same kinds of objects as the documents.
{
  local workflows = {
    allowed_actions: 'all', allow_github_owned_actions: true, allow_verified_creator_actions: true,
    allow_action_patterns: [], default_workflow_permissions: 'read',
    actions_can_approve_pull_request_reviews: false,
  },
  newOrg(project, id): {
    project_name: project, github_id: id,
    settings: { description: null, workflows: workflows { enabled_repositories: 'all', selected_repositories: [] } },
    webhooks: [], secrets: [], variables: [], rulesets: [],
    _repositories:: [], repositories: self._repositories,
  },
  newRepo(name): {
    name: name, private: true, description: null, topics: [], workflows: workflows { enabled: true },
    rulesets: [], secrets: [], variables: [],
  },
  newRepoRuleset(name): {
    name: name, target: 'branch', enforcement: 'active', bypass_actors: [], include_refs: [], exclude_refs: [],
    allows_creations: true, allows_deletions: false, allows_updates: true, allows_force_pushes: false,
    requires_commit_signatures: false, requires_linear_history: false, requires_deployments: false,
    required_deployment_environments: [], required_pull_request: null, required_status_checks: null,
    required_merge_queue: null,
  },
  newPullRequest(): {
    required_approving_review_count: 1, dismisses_stale_reviews: false, requires_code_owner_review: false,
    requires_last_push_approval: false, requires_review_thread_resolution: false,
  },
  newRepoSecret(name): { name: name, value: null },
  newRepoVariable(name): { name: name, value: null },
}
