//! Keys of a project's artifacts, all derived from the key of this program.

use contract::Project;
use documents::{Declared, Derived};
use secrets::PhaseKey;

use crate::Error;
use crate::binary_cache::CacheKey;
use crate::bundle::{Public, Signing};
use crate::rebuild_cache::RebuildCache;

/// Name of this program in the derivation of its keys.
const PHASE: &str = "artifact-attest";
/// Purpose of the derived key.
const SIGNING: &str = "signing";
/// Number of former key generations that `destroy` derives. Eight bounds the work per manifest.
const RETIRED_MAX: u32 = 8;

/// Public keys that verify a project's artifacts.
pub(crate) struct Keys {
    /// Key that signs now.
    pub(crate) current: Public,
    /// Keys that signed before a rotation. They identify bundles that `destroy` may remove, and
    /// prove nothing else.
    retired: Vec<Public>,
}

impl Keys {
    /// Returns the keys of `project`. The document's own list wins, and its first key signs.
    /// Without a list, the keys derive from the phase's key, which needs a secret and yields the
    /// keys of former generations, too.
    pub(crate) fn of(project: &Declared<Project>) -> Result<Self, Error> {
        let generation = generation(project);
        if !project.spec.verification_keys.artifacts.is_empty() {
            let named = contract::artifact_keys(project, SIGNING)?;
            let mut keys = named.into_iter().map(|key| Public::new(key, generation));
            let current = keys.next().ok_or(Error::NoKey)?;
            return Ok(Self { current, retired: keys.collect() });
        }
        let key = contract::phase_key(project, PHASE)?;
        let current = signing(project, &key).public;
        Ok(Self { current, retired: former(project, &key) })
    }

    /// Adds the keys of former generations, which holders of the phase's key can derive. `destroy`
    /// needs them because a bundle of an unknown key is left in place.
    pub(crate) fn with_former(mut self, project: &Declared<Project>) -> Self {
        if generation(project) > 1
            && let Ok(key) = contract::phase_key(project, PHASE)
        {
            self.retired.extend(former(project, &key));
        }
        self
    }

    /// Returns every key, the current one last.
    pub(crate) fn all(&self) -> Vec<&Public> {
        self.retired.iter().chain([&self.current]).collect()
    }
}

/// Secrets of `apply`: the signing keys, and the cache of completed second builds.
pub(crate) struct Signer {
    pub(crate) signing: Signing,
    pub(crate) cache: CacheKey,
    pub(crate) rebuild_cache: RebuildCache,
}

impl Signer {
    /// Derives the signer of `project`. Its key must be the one that `plan` and `verify` know.
    pub(crate) fn new(project: &Declared<Project>, keys: &Keys) -> Result<Self, Error> {
        let key = contract::phase_key(project, PHASE)?;
        let signing = signing(project, &key);
        let (signs, known) = (signing.public.id(), keys.current.id());
        if signs != known {
            return Err(Error::ForeignKey { signs, known });
        }
        let cache = CacheKey::new(project, &key);
        Ok(Self { signing, cache, rebuild_cache: RebuildCache::new(key) })
    }
}

/// Returns the generation of the key that signs.
fn generation(project: &Declared<Project>) -> u32 {
    project.spec.generation(&format!("{PHASE}/{SIGNING}"))
}

/// Derives the public keys of the generations before the current one.
fn former(project: &Declared<Project>, key: &PhaseKey) -> Vec<Public> {
    let generation = key.generation(SIGNING);
    let oldest = generation.saturating_sub(RETIRED_MAX).max(1);
    (oldest..generation).map(|number| signing(project, &key.at(SIGNING, number)).public).collect()
}

/// Derives the key that signs for `project` in the current generation.
fn signing(project: &Declared<Project>, key: &PhaseKey) -> Signing {
    Signing::new(key.p256(project.name.as_str(), SIGNING), key.generation(SIGNING))
}

/// Derives all secrets of one artifact of `project`.
pub(crate) fn derived(project: &Declared<Project>) -> Result<Vec<Derived>, Error> {
    let key = contract::phase_key(project, PHASE)?;
    let (signing, cache) = (signing(project, &key), CacheKey::new(project, &key));
    Ok(vec![
        Derived::new("signing.key", signing.pem()),
        Derived::new("signing.pub", signing.public.pem().into_bytes().into()),
        Derived::new("cache.key", cache.secret()),
        Derived::new("cache.pub", cache.public().into_bytes().into()),
    ])
}
