//! One Drain with its references resolved, and the readers of its cluster and its store.

use contract::{Project, Projects, facts};
use documents::{Context, Declared, Intent, Opened};
use kubernetes::Kubeconfig;

use crate::clients::cluster;
use crate::clients::store;
use crate::copy::read_back;
use crate::desired::{self, Desired, Keys, ReaderImage};
use crate::observe::{Absent, Observation, claims, observe};
use crate::plan::plan;
use crate::spec::Drain;
use crate::status::Status;
use crate::{Error, Limit};

/// A Drain with its references resolved, and readers.
pub(crate) struct Session<'a> {
    context: Context<'a, Drain>,
    project: &'a Declared<Project>,
    pub(crate) kubeconfig: Kubeconfig,
    pub(crate) reader: cluster::Reader,
    copies: Option<Copies<'a>>,
}

/// The part of a session that a removal does not need, so that `destroy` works without a store and
/// without the key of a receipt.
pub(crate) struct Copies<'a> {
    pub(crate) desired: Desired<'a>,
    /// Reader of the store, with a credential that cannot write.
    pub(crate) store: store::Reader,
}

impl<'a> Session<'a> {
    pub(crate) fn open(
        projects: &'a Projects,
        context: &Context<'a, Drain>,
        intent: Intent,
    ) -> Result<Opened<Self, Status>, Error> {
        let document = context.document;
        if intent.is_removal()
            && facts::is_destroyed(context.stream, "Cluster", document.spec.cluster.as_str())
        {
            return Ok(Opened::Known(if intent.is_write() {
                Status::destroyed("the cluster is gone; the copies stay")
            } else {
                Status::planned(None, Vec::new())
            }));
        }
        if intent == Intent::Plan && !desired::sources_exist(context) {
            let text = "the cluster or a repository does not exist yet, so workloads are unknown";
            documents::note(document.name.as_str(), text);
            let steps = plan(&desired::world_without_sources(&document.spec));
            return Ok(Opened::Known(Status::planned(None, steps)));
        }
        let name = document.spec.cluster.as_str();
        let project = facts::project_of_cluster(context.stream, name);
        let project = projects.get(project.unwrap_or_default())?;
        let copies = if intent.is_removal() {
            None
        } else {
            let desired = Desired::resolve(context, project)?;
            let store = store::Reader::open(store::declared(&project.spec)?)?;
            Some(Copies { desired, store })
        };
        let sealed = facts::cluster(context.stream, name)?.kubeconfig;
        // An age identity of the caller opens the kubeconfig, or the key of this phase.
        let kubeconfig = Kubeconfig::unseal(project, "data-drain", &sealed)?;
        let reader = cluster::Reader::open(&kubeconfig)?;
        let context = Context { ..*context };
        Ok(Opened::Session(Self { context, project, kubeconfig, reader, copies }))
    }

    /// Returns the name of the Drain.
    pub(crate) fn name(&self) -> &'a str {
        self.context.document.name.as_str()
    }

    /// Returns the time without progress after which a step or a wait fails.
    pub(crate) fn limit(&self) -> Limit {
        Limit::new(self.context.document.spec.timeout_seconds.seconds())
    }

    /// Returns the part of a session that a removal does not have.
    ///
    /// # Errors
    ///
    /// The session is a removal. Only a mistake in `plan` can cause this.
    pub(crate) fn copies(&self) -> Result<&Copies<'a>, Error> {
        Ok(self.copies.as_ref().ok_or_else(documents::Error::out_of_order)?)
    }

    /// Returns the same as [`Self::copies`]; absent for a removal.
    pub(crate) fn copies_if_any(&self) -> Option<&Copies<'a>> {
        self.copies.as_ref()
    }

    /// Returns the image of the pods that read volumes.
    pub(crate) fn image(&self) -> Result<ReaderImage, Error> {
        desired::image(&self.context)
    }

    /// Resolves the keys of a run that writes.
    pub(crate) fn keys(&self) -> Result<Keys, Error> {
        let phase = contract::phase_key(self.project, "data-drain")?;
        Ok(Keys::new(phase, self.project.name.as_str()))
    }

    /// Returns the declaration of the store.
    pub(crate) fn declared_store(&self) -> Result<&'a contract::Store, Error> {
        store::declared(&self.project.spec)
    }

    pub(crate) fn observe(&self) -> Result<Observation, Error> {
        match &self.copies {
            Some(Copies { desired, store }) => observe(&self.reader, store, desired),
            None => self.observe_claims(Absent::IsLeftOut),
        }
    }

    /// Observes only the claims, their workloads and the hold, which takes fewer requests.
    pub(crate) fn observe_claims(&self, absent: Absent) -> Result<Observation, Error> {
        claims(&self.reader, self.name(), &self.context.document.spec.sources, absent)
    }

    /// Reads back every object of the receipt, unless this run has done so.
    ///
    /// # Errors
    ///
    /// [`Error::Tampered`]: an object is missing or damaged.
    pub(crate) fn read_back(&self, observation: &Observation) -> Result<(), Error> {
        let Copies { desired, store } = self.copies()?;
        match &observation.receipt {
            Some((receipt, _)) if !observation.is_read_back => read_back(store, desired, receipt),
            _ => Ok(()),
        }
    }
}
