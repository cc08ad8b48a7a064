//! One document with its references resolved, and the readers of its remote services.

use std::cell::{RefCell, RefMut};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use contract::{Access, Cloud, Project, Projects};
use documents::{Context, Declared, Deferred, Intent, Stream};
use zeroize::Zeroizing;

use crate::clients::hetzner::model::Pricing;
use crate::clients::hetzner::{self, Catalog, CloudState, DeclaredNames, Leftover, Offers, Scope};
use crate::clients::kubernetes;
use crate::clients::talos;
use crate::config::Patch;
use crate::desired::{self, Patches};
use crate::offers::{self, Creation};
use crate::pki::Pki;
use crate::plan::{DesiredState, Family, Machine};
use crate::spec::Cluster;
use crate::{Error, absence, config, registries};

/// Age after which the state of the cloud is read again while a run waits for machines. The API allows
/// 3600 requests an hour (<https://docs.hetzner.cloud/reference/cloud#rate-limiting>), and one reading
/// takes seven.
const CLOUD_MAX_AGE: Duration = Duration::from_secs(15);
/// Pause between two requests for a server that is being deleted.
const LEAVING_POLL: Duration = Duration::from_secs(1);

/// One document with its references resolved, and the readers of its remote services.
pub(crate) struct Session<'a> {
    pub(crate) document: &'a Declared<Cluster>,
    pub(crate) stream: &'a Stream,
    pub(crate) project: &'a Declared<Project>,
    pub(crate) intent: Intent,
    pub(crate) cloud: hetzner::Reader,
    /// `None` for a caller that has no more than `READER_KEY`.
    credentials: Option<Credentials<'a>>,
    memory: RefCell<Memory>,
}

/// The keys of a cluster, and what only they give access to.
pub(crate) struct Credentials<'a> {
    pub(crate) pki: Pki,
    pub(crate) talos: talos::Reader,
    patches: &'a Patches,
    /// Documents of the declared registries, with their secrets.
    registries: Patch,
}

/// Answers of the cloud that one run uses more than once.
#[derive(Default)]
struct Memory {
    cloud: Option<CachedCloud>,
    catalog: Catalog,
    /// Whether the document was validated against the offers of the cloud.
    has_validated_offers: bool,
    /// Resources of other programs, as they were before a removal began: the network that lists them
    /// goes with the cluster.
    leftovers: Option<Vec<Leftover>>,
}

/// The state of the cloud at one moment.
struct CachedCloud {
    state: CloudState,
    at: Instant,
    /// When the servers that are being deleted were asked for last.
    leaving_at: Instant,
    /// Families that a step may have changed since.
    stale: BTreeSet<Family>,
}

impl<'a> Session<'a> {
    /// Opens the cloud with the token that `intent` needs: a reader's, where the Project declares one
    /// and no step is executed.
    pub(crate) fn open(
        context: &Context<'a, Cluster>,
        intent: Intent,
        projects: &'a Projects,
        patches: &'a Patches,
    ) -> Result<Self, Error> {
        let (document, stream) = (context.document, context.stream);
        let project = projects.get(&document.spec.project)?;
        let is_reader = intent == Intent::Plan
            && contract::phase_key_unless_reader(project, "talos-provision")?.is_none();
        let credentials = if is_reader {
            None
        } else {
            let pki = desired::derive(document, project)?;
            // No configuration is computed for a removal, so that it needs no credentials of registries.
            let registries = if intent.is_removal() {
                Patch::from_documents(Vec::new())
            } else {
                registries::resolve(&document.spec.registries, project)?
            };
            Some(Credentials { talos: talos::Reader::new(&pki)?, pki, patches, registries })
        };
        let Some(Cloud::Hetzner { url, token, reader }) = &project.spec.endpoints.cloud else {
            return Err(Error::Unexpected { what: "the Project has no cloud".to_owned() });
        };
        let access = if intent.is_write() { Access::Administrator } else { Access::Reader };
        let token = match access {
            Access::Reader => reader.as_ref().unwrap_or(token),
            Access::Administrator => token,
        };
        let scope = Scope { project: project.name.to_string(), cluster: document.name.to_string() };
        let cloud = hetzner::Reader::new(url.as_str(), token.resolve()?, scope)?;
        let memory = RefCell::default();
        Ok(Self { document, stream, project, intent, cloud, credentials, memory })
    }

    pub(crate) fn spec(&self) -> &Cluster {
        &self.document.spec
    }

    pub(crate) fn name(&self) -> &str {
        self.document.name.as_str()
    }

    /// Returns the keys, unless the caller only reads.
    pub(crate) fn credentials(&self) -> Option<&Credentials<'a>> {
        self.credentials.as_ref()
    }

    /// Returns the keys, which every verb but `plan` of a reader has.
    ///
    /// # Errors
    ///
    /// The caller has no more than `READER_KEY`.
    pub(crate) fn keys(&self) -> Result<&Credentials<'a>, Error> {
        let missing = || Error::Keys("only READER_KEY is set".to_owned());
        self.credentials().ok_or_else(missing)
    }

    /// Returns the state of the cloud: as it was read last, with the families listed anew that a step may
    /// have changed, or all families after [`CLOUD_MAX_AGE`].
    pub(crate) fn cloud_state(&self) -> Result<CloudState, Error> {
        let mut memory = self.memory.borrow_mut();
        let Some(seen) = &mut memory.cloud else {
            // Resources of others matter only before something is created, so they are listed once.
            let mut state = CloudState::default();
            self.refresh(&mut state, Family::all(), true)?;
            let status = self.stream.status(self.document);
            absence::require_known_absence(&self.cloud, (self.name(), status), &state)?;
            return Ok(Self::remember(&mut memory, state));
        };
        if !seen.state.leaving.is_empty() && seen.leaving_at.elapsed() > LEAVING_POLL {
            seen.state.leaving = self.cloud.still_leaving(&seen.state.leaving)?;
            seen.leaving_at = Instant::now();
            if seen.state.leaving.is_empty() {
                seen.stale.insert(Family::Servers);
            }
        }
        // The end of a removal names what is left of others.
        let has_foreign = self.intent.is_removal();
        if seen.at.elapsed() > CLOUD_MAX_AGE {
            let mut state = CloudState::default();
            self.refresh(&mut state, Family::all(), has_foreign)?;
            return Ok(Self::remember(&mut memory, state));
        }
        // A family stays stale until its list has been read: a request may fail.
        while let Some(family) = seen.stale.first().copied() {
            self.refresh(&mut seen.state, [family], has_foreign)?;
            seen.stale.remove(&family);
            if family == Family::Servers {
                seen.leaving_at = Instant::now();
            }
        }
        Ok(seen.state.clone())
    }

    fn remember(memory: &mut RefMut<'_, Memory>, state: CloudState) -> CloudState {
        let now = Instant::now();
        let seen =
            CachedCloud { state: state.clone(), at: now, leaving_at: now, stale: BTreeSet::new() };
        memory.cloud = Some(seen);
        state
    }

    /// Lists `families` anew in `state`, and with `has_foreign` also what other people have created under
    /// the declared names.
    fn refresh(
        &self,
        state: &mut CloudState,
        families: impl IntoIterator<Item = Family>,
        has_foreign: bool,
    ) -> Result<(), Error> {
        let desired = desired::desired(self.document);
        let (servers, resources) =
            (desired.machines.into_keys().collect(), desired.resources.into_keys().collect());
        let names = has_foreign.then_some(DeclaredNames { resources, servers });
        for family in families {
            self.cloud.refresh(state, family, names.as_ref())?;
        }
        Ok(())
    }

    /// Makes the next observation list `families` anew.
    pub(crate) fn forget(&self, families: &[Family]) {
        if let Some(seen) = &mut self.memory.borrow_mut().cloud {
            seen.stale.extend(families);
        }
    }

    /// Returns images and prices for the resources that `desired` lacks, each looked up once.
    /// `servers` are the names of the machines that have to be created. `has_balancer` says whether the
    /// load balancer has to be created, too.
    pub(crate) fn catalog(
        &self,
        desired: &DesiredState,
        servers: &BTreeSet<String>,
        has_balancer: bool,
    ) -> Result<Catalog, Error> {
        let mut memory = self.memory.borrow_mut();
        if !memory.catalog.covers(desired, servers) {
            let by_hand = memory.cloud.as_ref().map(|seen| seen.state.images_by_hand.as_slice());
            let offers =
                self.cloud.offers(&self.spec().talos.to_string(), by_hand.unwrap_or_default())?;
            let pricing = self.cloud.pricing()?;
            // Later in a run, the document was accepted before, and resources exist.
            if !memory.has_validated_offers {
                self.validate_offers((&offers, pricing), desired, (servers, has_balancer))?;
                memory.has_validated_offers = true;
            }
            let locations = desired::balancer_locations(self.spec());
            memory.catalog = Catalog::new((&offers, pricing), desired, servers, &locations)?;
        }
        Ok(memory.catalog.clone())
    }

    /// Rejects a document that declares what the cloud does not offer today.
    fn validate_offers(
        &self,
        (offers, pricing): (&Offers, &Pricing),
        desired: &DesiredState,
        (servers, has_balancer): (&BTreeSet<String>, bool),
    ) -> Result<(), Error> {
        let pools = desired.machines.iter().filter(|(name, _)| servers.contains(*name));
        let pools = pools.map(|(_, machine)| machine.pool.clone()).collect();
        let creation = Creation { pools: &pools, has_balancer };
        let (mistakes, hints) = offers::mistakes(self.spec(), creation, (offers, pricing));
        if !mistakes.is_empty() {
            return Err(self.stream.rejected(self.document, &mistakes).into());
        }
        for hint in hints {
            documents::note(self.name(), hint);
        }
        Ok(())
    }

    /// Returns the resources of other programs that outlive the cluster, as they were at the first
    /// observation.
    pub(crate) fn leftovers(&self, state: &CloudState) -> Result<Vec<Leftover>, Error> {
        let mut memory = self.memory.borrow_mut();
        if let Some(leftovers) = &memory.leftovers {
            return Ok(leftovers.clone());
        }
        let leftovers = self.cloud.leftovers(state)?;
        memory.leftovers = Some(leftovers.clone());
        Ok(leftovers)
    }

    /// Returns the declared state, with digests of the configurations where keys and endpoint are
    /// known.
    pub(crate) fn desired(&self, endpoint: &Deferred<String>) -> Result<DesiredState, Error> {
        let mut desired = desired::desired(self.document);
        if let (Deferred::Value(endpoint), Some(keys)) = (endpoint, self.credentials()) {
            for (name, machine) in &mut desired.machines {
                let documents = desired::documents(
                    self.document,
                    (&keys.pki, keys.patches, &keys.registries),
                    (name, machine),
                    endpoint,
                )?;
                let text = config::render(&documents);
                machine.configuration = Deferred::Value(crate::pki::sha256_hex(text.as_bytes()));
                machine.keys = config::keys(&documents);
            }
        }
        Ok(desired)
    }

    /// Returns the configuration of one machine.
    pub(crate) fn configuration(
        &self,
        name: &str,
        machine: &Machine,
        endpoint: &str,
    ) -> Result<Zeroizing<String>, Error> {
        let keys = self.keys()?;
        let documents = desired::documents(
            self.document,
            (&keys.pki, keys.patches, &keys.registries),
            (name, machine),
            endpoint,
        )?;
        Ok(config::render(&documents))
    }

    /// Connects to the Kubernetes API at `endpoint`.
    pub(crate) fn kubernetes(&self, endpoint: &str) -> Result<kubernetes::Reader, Error> {
        kubernetes::Reader::new(&self.keys()?.pki, endpoint)
    }
}
