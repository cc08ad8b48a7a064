//! `lab up`: starts the services that the documents need, and writes the documents with the lab's
//! endpoints.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use contract::{Project, Projects};
use documents::{Declared, Stream, Target};

use crate::Error;
use crate::component::{COMPONENTS, Component};
use crate::endpoints::{self, Needs};
use crate::paths::LabPaths;
use crate::process::TICK;
use crate::service::Service;
use crate::{
    build, cloud, forge, images, install, nix, overrides, port, registry, serve, state, store,
};

/// Longest wait for a service to answer. Gitea creates its database first.
const ANSWER: Duration = Duration::from_secs(60);

/// Installs everything that any lab needs from this machine, so that later labs start without a
/// network.
pub(crate) fn prepare_machine(paths: &LabPaths) -> Result<(), Error> {
    install::ensure(paths, |_| true)?;
    forge::account().map(|_| ())
}

/// Runs `lab up`. **No document is written unless every service answers**, because documents with the
/// vendors' endpoints must not reach the programs behind `lab`.
pub(crate) fn up(paths: &LabPaths, target: &Target, overrides: Option<&Path>) -> Result<(), Error> {
    let mut stream = Stream::read(&target.documents);
    let overridden = overrides.map(|folder| overrides::merge(&mut stream, folder));
    // As strict as the programs behind `lab`, so that no component is built for invalid documents.
    Projects::read_for_lab(&mut stream);
    let projects = stream.documents_of::<Project>();
    let owners = endpoints::owners(&mut stream, &projects);
    stream.accept()?;
    overrides::report(overridden.as_deref().unwrap_or_default());
    if projects.is_empty() {
        documents::note("-", "the input has no Project: there are no endpoints to replace");
    }
    let needs = Needs::of(&stream, &projects);
    install::check_root(|kind| needs.has(kind))?;
    state::check_owner(paths)?;
    let _lock = state::lock_commands(paths)?;
    state::begin(paths)?;
    let is_needed = |component: &&Component| component.needed_by.iter().any(|kind| needs.has(kind));
    let components: Vec<&Component> = COMPONENTS.iter().filter(is_needed).collect();
    install::ensure(paths, |kind| needs.has(kind))?;
    build::build(paths, &components)?;
    let services = needs.services(paths);
    start(paths, &services, &projects)?;
    // Images need the registry alone, so they are packed while the other services start. The forge
    // takes longest.
    answers(paths, Service::Registry)?;
    if needs.has("Cluster") {
        images::ensure_pause(paths)?;
    }
    if needs.has("Delivery") {
        images::ensure_flux(paths)?;
    }
    services.iter().try_for_each(|service| answers(paths, *service))?;
    if needs.has("Artifact") {
        nix::ensure(paths, &needs.flakes)?;
    }
    for project in &projects {
        let owner = &owners[project.name.as_str()];
        let endpoints = endpoints::endpoints(paths, &services, &project.spec, owner)?;
        endpoints::replace(&mut stream, project, endpoints);
    }
    endpoints::replace_factories(&mut stream, paths);
    stream.write()?;
    Ok(())
}

/// Prepares `services`, and starts the lab unless it runs. A running lab starts new services itself.
fn start(
    paths: &LabPaths,
    services: &[Service],
    projects: &[Declared<Project>],
) -> Result<(), Error> {
    let runs = state::is_running(paths)?;
    // Machines, certificates and the forge keep their addresses while the lab is down.
    if let Some(state) = state::read(paths)?
        && state.network != paths.network.to_string()
    {
        return Err(Error::OtherNetwork {
            directory: paths.directory.clone(),
            existing: state.network,
            asked: paths.network.to_string(),
        });
    }
    if !runs {
        serve::sweep(paths)?;
    }
    // Services that run keep running, even if these documents do not need them.
    let mut wanted = if runs { state::wanted(paths)? } else { Vec::new() };
    for service in services {
        if !wanted.contains(service) {
            port::check_free(service.name(), service.address(paths))?;
            if *service == Service::Cloud {
                port::check_free("image factory", paths.factory())?;
            }
            wanted.push(*service);
        }
        match service {
            Service::Registry => registry::prepare(paths)?,
            Service::Forge => forge::prepare(paths)?,
            Service::Cloud => cloud::prepare(paths)?,
            Service::Store => {
                let buckets =
                    projects.iter().filter_map(|project| endpoints::declared_bucket(&project.spec));
                store::prepare(paths, &buckets.collect::<Vec<_>>())?;
            }
        }
    }
    state::want(paths, &wanted)?;
    if !runs {
        serve::start(paths)?;
    }
    Ok(())
}

/// Waits until `service` answers.
fn answers(paths: &LabPaths, service: Service) -> Result<(), Error> {
    let url = format!("http://{}", service.address(paths));
    if service.answers(paths) {
        documents::detail(service.name(), format_args!("runs at {url}"));
        return Ok(());
    }
    let step = documents::step(service.name(), "start");
    let end = Instant::now() + ANSWER;
    loop {
        documents::check_interrupt()?;
        if service.answers(paths) {
            step.done(url);
            return Ok(());
        }
        let log = service.log(paths);
        let name = service.name().to_owned();
        let record =
            state::read(paths)?.and_then(|mut state| state.services.remove(service.name()));
        if record.is_some_and(|record| record.failed) {
            let said = crate::files::last_line(&log);
            return Err(Error::Died { service: name, said, log });
        }
        if !state::is_running(paths)? {
            let log = paths.log("lab");
            let said = crate::files::last_error(&log);
            return Err(Error::Died { service: "lab".to_owned(), said, log });
        }
        if Instant::now() >= end {
            return Err(Error::Silent { service: name, seconds: ANSWER.as_secs(), log });
        }
        thread::sleep(TICK);
    }
}
