//! From documents to a lab that answers, and the same documents with its endpoints.

use std::thread;
use std::time::{Duration, Instant};

use documents::{Declared, Stream, Target};
use keyring::{Project, Projects};

use crate::Error;
use crate::component::{COMPONENTS, Component};
use crate::endpoints::{self, Needs};
use crate::place::Place;
use crate::process::TICK;
use crate::service::Service;
use crate::{build, cloud, forge, images, install, nix, port, registry, serve, state, store};

/// How long a service may take to answer: Gitea makes its database first.
const ANSWER: Duration = Duration::from_secs(60);

/// What any lab needs of this machine: whoever has it can bring one up without a network.
pub(crate) fn settle_machine(place: &Place) -> Result<(), Error> {
    install::ensure(place, |_| true)?;
    forge::account().map(|_| ())
}

/// Brings it about. **Nothing is written unless all of it worked**: documents that still name the
/// vendors must not reach the programs behind this one.
pub(crate) fn up(place: &Place, target: &Target) -> Result<(), Error> {
    let mut stream = Stream::read(&target.documents);
    // As strictly as the programs behind this one: nothing is built for what they would refuse.
    Projects::read_for_lab(&mut stream);
    let projects = stream.documents_of::<Project>();
    let owners = endpoints::owners(&mut stream, &projects);
    stream.accept()?;
    if projects.is_empty() {
        documents::note("-", "no Project came in: there are no endpoints to replace");
    }
    let needs = Needs::of(&stream, &projects);
    let _alone = state::alone(place)?;
    state::begin(place)?;
    let components: Vec<&Component> =
        COMPONENTS.iter().filter(|it| it.needed_by.iter().any(|kind| needs.has(kind))).collect();
    install::ensure(place, |kind| needs.has(kind))?;
    build::build(place, &components)?;
    let services = needs.services(place);
    start(place, &services, &projects)?;
    // While the others, and the forge longest, begin: images need no more than the registry.
    answers(place, Service::Registry)?;
    if needs.has("Cluster") {
        images::ensure_pause(place)?;
    }
    if needs.has("Delivery") {
        images::ensure_flux(place)?;
    }
    services.iter().try_for_each(|service| answers(place, *service))?;
    if needs.has("Artifact") {
        nix::ensure(place, &needs.flakes)?;
    }
    for project in &projects {
        let owner = &owners[project.name.as_str()];
        let endpoints = endpoints::endpoints(place, &services, &project.spec, owner)?;
        endpoints::replace(&mut stream, project, endpoints);
    }
    stream.write()?;
    Ok(())
}

/// Sees to it that every one of `services` is started.
fn start(place: &Place, services: &[Service], projects: &[Declared<Project>]) -> Result<(), Error> {
    let runs = state::is_running(place)?;
    if !runs {
        serve::sweep(place)?;
    } else if let Some(state) = state::read(place)?
        && state.network != place.network.to_string()
    {
        return Err(Error::OtherNetwork {
            directory: place.directory.clone(),
            running: state.network,
            asked: place.network.to_string(),
        });
    }
    // What runs goes on running, whether these documents need it or not.
    let mut wanted = if runs { state::wanted(place)? } else { Vec::new() };
    for service in services {
        if !wanted.contains(service) {
            port::free(service.name(), service.address(place))?;
            wanted.push(*service);
        }
        match service {
            Service::Registry => registry::prepare(place)?,
            Service::Forge => forge::prepare(place)?,
            Service::Cloud => cloud::prepare(place)?,
            Service::Store => {
                let buckets = projects.iter().filter_map(|it| endpoints::declared_bucket(&it.spec));
                store::prepare(place, &buckets.collect::<Vec<_>>())?;
            }
        }
    }
    state::want(place, &wanted)?;
    if !runs {
        serve::start(place)?;
    }
    Ok(())
}

/// Waits until `service` answers.
fn answers(place: &Place, service: Service) -> Result<(), Error> {
    let url = format!("http://{}", service.address(place));
    if service.answers(place) {
        documents::detail(service.name(), format_args!("runs at {url}"));
        return Ok(());
    }
    let step = documents::step(service.name(), "start");
    let end = Instant::now() + ANSWER;
    loop {
        documents::check_interrupt()?;
        if service.answers(place) {
            step.done(url);
            return Ok(());
        }
        let log = service.log(place);
        let name = service.name().to_owned();
        let record = state::read(place)?.and_then(|mut it| it.services.remove(service.name()));
        if record.is_some_and(|it| it.failed) {
            let said = crate::files::last_line(&log);
            return Err(Error::Died { service: name, said, log });
        }
        if !state::is_running(place)? {
            let log = place.log("lab");
            let said = crate::files::last_line(&log);
            return Err(Error::Died { service: "lab".to_owned(), said, log });
        }
        if Instant::now() >= end {
            return Err(Error::Silent { service: name, seconds: ANSWER.as_secs(), log });
        }
        thread::sleep(TICK);
    }
}
