//! Files of `derive`: every secret and configuration that derives from the root for a cluster.
//!
//! No service is asked. Addresses, which only the cloud assigns, come from the document or from its
//! status.

use contract::Project;
use documents::{Declared, Derived};
use zeroize::Zeroizing;

use crate::desired::{self, Patches};
use crate::spec::{Cluster, Role};
use crate::{Error, config};

type Context<'a> = documents::Context<'a, Cluster>;

/// Returns the secrets bundle, the client credentials and the configuration of every machine.
pub(crate) fn derive(
    context: &Context<'_>,
    project: &Declared<Project>,
    patches: &Patches,
) -> Result<Vec<Derived>, Error> {
    let (document, name) = (context.document, context.document.name.as_str());
    let pki = desired::derive(document, project)?;
    let endpoint = endpoint(context)?;
    let mut files = vec![file("secrets.yaml", pki.bundle.write())];
    let clients = pki.clients(name, &endpoint, &control_planes(context));
    files.extend(clients.into_iter().map(|(name, _, text)| file(name, text)));
    for (machine, declared) in desired::machines(document) {
        let documents =
            desired::documents(document, (&pki, patches), (&machine, &declared), &endpoint)?;
        files.push(file(&format!("{machine}.yaml"), config::render(&documents)));
    }
    Ok(files)
}

fn file(name: &str, mut text: Zeroizing<String>) -> Derived {
    Derived::new(name, std::mem::take(&mut *text).into_bytes().into())
}

/// Returns the URL of the Kubernetes API: the declared one, otherwise the one in the document's
/// status.
fn endpoint(context: &Context<'_>) -> Result<String, Error> {
    if let Some(declared) = &context.document.spec.endpoint {
        return Ok(declared.as_str().to_owned());
    }
    let endpoint = &context.stream.status(context.document)["observed"]["endpoint"];
    let endpoint = endpoint.as_str().filter(|endpoint| endpoint.starts_with("https://"));
    let unknown = || documents::Error::NotReady {
        document: format!("Cluster/{}", context.document.name),
        why: "the endpoint is an address that the cloud assigns: run `plan` first, which reads it"
            .to_owned(),
    };
    Ok(endpoint.map(str::to_owned).ok_or_else(unknown)?)
}

fn control_planes(context: &Context<'_>) -> Vec<String> {
    let nodes = context.stream.status(context.document)["observed"]["nodes"].as_array();
    let controls = nodes.into_iter().flatten();
    let controls = controls.filter(|node| node["role"] == Role::Controlplane.as_str());
    controls.filter_map(|node| node["address"].as_str().map(str::to_owned)).collect()
}
