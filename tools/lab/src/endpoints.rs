//! Decides which services the documents need, and replaces the endpoints in the documents:
//! `Project.spec.endpoints` and `Cluster.spec.image.factory`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use contract::{Project, Store, facts};
use documents::{Declared, Stream};
use serde_json::{Map, Value, json};

use crate::Error;
use crate::paths::LabPaths;
use crate::service::Service;
use crate::{cloud, forge, nix, store};

/// Returns the bucket of the object store that `project` declares.
pub(crate) fn declared_bucket(project: &Project) -> Option<&str> {
    match project.endpoints.store.as_ref()? {
        Store::S3 { bucket, .. } => Some(bucket),
    }
}

/// Services and builds that the documents of the input need.
#[derive(Debug)]
pub(crate) struct Needs {
    /// Kinds of the documents that need more than every lab has.
    kinds: Vec<String>,
    store: bool,
    /// Folders with a flake that Nix builds.
    pub(crate) flakes: Vec<PathBuf>,
}

impl Needs {
    pub(crate) fn of(stream: &Stream, projects: &[Declared<Project>]) -> Self {
        // Manifests are published without Nix, so their Artifact needs the registry alone, which every lab has.
        let needs_more = |document: &&Value| {
            document["kind"] != "Artifact" || document["spec"]["build"].is_object()
        };
        let kinds = facts::documents_of_group(stream)
            .filter(needs_more)
            .filter_map(|document| document["kind"].as_str())
            .map(str::to_owned)
            .collect();
        let store = projects.iter().any(|project| declared_bucket(&project.spec).is_some());
        Self { kinds, store, flakes: facts::flakes(stream).map(PathBuf::from).collect() }
    }

    /// Returns whether a document of `kind` needs more than every lab has.
    pub(crate) fn has(&self, kind: &str) -> bool {
        self.kinds.iter().any(|present| present == kind)
    }

    /// Returns the services that must run.
    pub(crate) fn services(&self, paths: &LabPaths) -> Vec<Service> {
        let mut services = vec![Service::Registry, Service::Cloud];
        if self.has("Repository") {
            services.push(Service::Forge);
        }
        if self.store && paths.program("versitygw").exists() {
            services.push(Service::Store);
        }
        services
    }
}

/// Returns the owner of each project's repositories, by the project's name. A project without
/// repositories has its own name as owner.
pub(crate) fn owners(
    stream: &mut Stream,
    projects: &[Declared<Project>],
) -> BTreeMap<String, String> {
    let mut owners = BTreeMap::new();
    for project in projects {
        let names = facts::owners_of_project(stream, project.name.as_str());
        let has_several = names.len() > 1;
        let owner = names.first().map_or_else(|| project.name.to_string(), ToString::to_string);
        if has_several {
            let message = "the project's repositories have several owners, but the lab's forge has one account per project";
            stream.invalid(project, "/spec", message);
        }
        owners.insert(project.name.to_string(), owner);
    }
    owners
}

/// Returns the lab's endpoints for the project whose repositories belong to `owner`.
pub(crate) fn endpoints(
    paths: &LabPaths,
    services: &[Service],
    project: &Project,
    owner: &str,
) -> Result<Value, Error> {
    let mut endpoints = Map::new();
    let mut add = |name: &str, value| endpoints.insert(name.to_owned(), value);
    if services.contains(&Service::Forge) {
        let url = format!("http://{}", paths.forge());
        let token = forge::token(paths, owner)?;
        add("forge", json!({"gitea": {"url": url, "token": {"file": token}}}));
    }
    add(
        "registry",
        json!({"url": format!("http://{}/{}", paths.registry(), owner.to_lowercase())}),
    );
    let (url, token) = (format!("http://{}/v1", paths.cloud()), cloud::token(paths));
    let reader = cloud::read_token(paths);
    let hetzner = json!({"url": url, "token": {"file": token}, "reader": {"file": reader}});
    add("cloud", json!({"hetzner": hetzner}));
    if let Some(bucket) = declared_bucket(project)
        && services.contains(&Service::Store)
    {
        let url = format!("http://{}", paths.store());
        let credentials = |account: store::Account| json!({"file": account.credentials(paths)});
        let store = json!({
            "url": url, "region": store::REGION, "bucket": bucket,
            "credentials": credentials(store::Account::Writer),
            "reader": credentials(store::Account::Reader),
        });
        add("store", json!({"s3": store}));
    }
    add("flux", json!({"url": format!("http://{}/fluxcd", paths.registry())}));
    let mut builds = json!({"inputs": {"nixpkgs": nix::input(paths)}});
    if project.endpoints.nix.as_ref().is_some_and(|nix| nix.cache.is_some()) {
        let folder = paths.directory.join("binary-cache");
        builds["cache"] = json!({"url": format!("file://{}", folder.display())});
    }
    add("nix", builds);
    Ok(Value::Object(endpoints))
}

/// Replaces the URL of the Image Factory in every Cluster that declares an image.
pub(crate) fn replace_factories(stream: &mut Stream, paths: &LabPaths) {
    let url = format!("http://{}", paths.factory());
    for spec in stream.specs_mut("Cluster").filter(|spec| spec["image"].is_object()) {
        spec["image"]["factory"] = json!(url);
    }
}

/// Replaces the endpoints of `project` and no other field.
pub(crate) fn replace(stream: &mut Stream, project: &Declared<Project>, endpoints: Value) {
    let document = stream.document("Project", project.name.as_str());
    let mut spec = document.map_or(Value::Null, |project| project["spec"].clone());
    spec["endpoints"] = endpoints;
    stream.replace(project, "/spec", spec);
}
