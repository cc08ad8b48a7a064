//! Files of `derive`: every secret and configuration that derives from the root for a cluster.
//!
//! No service is asked. Addresses, which only the cloud assigns, come from the document or from its
//! status.

use contract::Project;
use documents::{Declared, Derived};
use zeroize::Zeroizing;

use crate::desired::{self, Patches};
use crate::earlier::EarlierFacts;
use crate::spec::Cluster;
use crate::{Error, config, registries};

type Context<'a> = documents::Context<'a, Cluster>;

/// Returns the secrets bundle, the client credentials and the configuration of every machine.
pub(crate) fn derive(
    context: &Context<'_>,
    project: &Declared<Project>,
    patches: &Patches,
) -> Result<Vec<Derived>, Error> {
    let (document, name) = (context.document, context.document.name.as_str());
    let pki = desired::derive(document, project)?;
    let registries = registries::resolve(&document.spec.registries, project)?;
    let endpoint = endpoint(context)?;
    let mut files = vec![file("secrets.yaml", pki.bundle.write())];
    let clients = pki.clients(name, &endpoint, &earlier(context).control_planes());
    files.extend(clients.into_iter().map(|(name, _, text)| file(name, text)));
    let keys = (&pki, patches, &registries);
    for (machine, declared) in desired::machines(document) {
        let documents = desired::documents(document, keys, (&machine, &declared), &endpoint)?;
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
    let unknown = || documents::Error::NotReady {
        document: format!("Cluster/{}", context.document.name),
        why: "the endpoint is an address that the cloud assigns: run `plan` first, which reads it"
            .to_owned(),
    };
    Ok(earlier(context).endpoint().ok_or_else(unknown)?)
}

/// Returns the facts of the document's own status.
fn earlier(context: &Context<'_>) -> EarlierFacts {
    EarlierFacts::read(context.stream.status(context.document))
}
