//! Which documents need what, and what `Project.spec.endpoints` becomes: the one thing in the
//! stream that the lab changes.

use std::collections::BTreeMap;
use std::path::PathBuf;

use documents::{Declared, Stream};
use keyring::{Project, Store};
use serde_json::{Map, Value, json};

use crate::Error;
use crate::place::Place;
use crate::service::Service;
use crate::{cloud, forge, nix, store};

/// The bucket of the store that `project` declares.
pub(crate) fn declared_bucket(project: &Project) -> Option<&str> {
    match project.endpoints.store.as_ref()? {
        Store::S3 { bucket, .. } => Some(bucket),
    }
}

/// What the documents that came in need.
#[derive(Debug)]
pub(crate) struct Needs {
    kinds: Vec<String>,
    store: bool,
    /// The folders that Nix is to build.
    pub(crate) flakes: Vec<PathBuf>,
}

impl Needs {
    pub(crate) fn of(stream: &Stream, projects: &[Declared<Project>]) -> Self {
        let kinds = ours(stream).filter_map(|it| it["kind"].as_str()).map(str::to_owned).collect();
        let store = projects.iter().any(|it| declared_bucket(&it.spec).is_some());
        let builds = ours(stream).filter(|it| it["kind"] == "Artifact");
        let flakes = builds.filter_map(|it| it["spec"]["build"]["flake"].as_str());
        Self { kinds, store, flakes: flakes.map(PathBuf::from).collect() }
    }

    pub(crate) fn has(&self, kind: &str) -> bool {
        self.kinds.iter().any(|it| it == kind)
    }

    /// The services that are to run.
    pub(crate) fn services(&self, place: &Place) -> Vec<Service> {
        let mut services = vec![Service::Registry, Service::Cloud];
        if self.has("Repository") {
            services.push(Service::Forge);
        }
        if self.store && place.program("versitygw").exists() {
            services.push(Service::Store);
        }
        services
    }
}

fn ours(stream: &Stream) -> impl Iterator<Item = &Value> {
    let is_ours =
        |it: &&Value| it["apiVersion"].as_str().unwrap_or_default().starts_with("holistic/");
    stream.documents().filter(is_ours)
}

/// Who owns the repositories of each project; the project's own name stands for nobody.
pub(crate) fn owners(
    stream: &mut Stream,
    projects: &[Declared<Project>],
) -> BTreeMap<String, String> {
    let mut owners = BTreeMap::new();
    for project in projects {
        let repositories = ours(stream).filter(|it| {
            it["kind"] == "Repository" && it["spec"]["project"] == project.name.as_str()
        });
        let mut names: Vec<_> =
            repositories.filter_map(|it| it["spec"]["owner"].as_str()).map(str::to_owned).collect();
        names.sort();
        names.dedup();
        if names.len() > 1 {
            let message = "repositories of one project have several owners, and the lab's forge has one account for it";
            stream.invalid(project, "/spec", message);
        }
        let owner = names.into_iter().next().unwrap_or_else(|| project.name.to_string());
        owners.insert(project.name.to_string(), owner);
    }
    owners
}

/// What stands in for the vendors, for the project whose repositories are `owner`'s.
pub(crate) fn endpoints(
    place: &Place,
    services: &[Service],
    project: &Project,
    owner: &str,
) -> Result<Value, Error> {
    let mut endpoints = Map::new();
    let mut add = |name: &str, value| endpoints.insert(name.to_owned(), value);
    if services.contains(&Service::Forge) {
        let url = format!("http://{}", place.forge());
        let token = forge::token(place, owner)?;
        add("forge", json!({"gitea": {"url": url, "token": {"file": token}}}));
    }
    add(
        "registry",
        json!({"url": format!("http://{}/{}", place.registry(), owner.to_lowercase())}),
    );
    let (url, token) = (format!("http://{}/v1", place.cloud()), cloud::token(place));
    let reader = cloud::read_token(place);
    let hetzner = json!({"url": url, "token": {"file": token}, "reader": {"file": reader}});
    add("cloud", json!({"hetzner": hetzner}));
    if let Some(bucket) = declared_bucket(project)
        && services.contains(&Service::Store)
    {
        let url = format!("http://{}", place.store());
        let credentials = |it: store::Account| json!({"file": it.credentials(place)});
        let store = json!({
            "url": url, "region": store::REGION, "bucket": bucket,
            "credentials": credentials(store::Account::Writer),
            "reader": credentials(store::Account::Reader),
        });
        add("store", json!({"s3": store}));
    }
    add("flux", json!({"url": format!("http://{}/fluxcd", place.registry())}));
    add("nix", json!({"inputs": {"nixpkgs": nix::input(place)}}));
    Ok(Value::Object(endpoints))
}

/// Gives `project` its new endpoints, and changes nothing else.
pub(crate) fn replace(stream: &mut Stream, project: &Declared<Project>, endpoints: Value) {
    let document = stream.document("Project", project.name.as_str());
    let mut spec = document.map_or(Value::Null, |it| it["spec"].clone());
    spec["endpoints"] = endpoints;
    stream.replace(project, "/spec", spec);
}
