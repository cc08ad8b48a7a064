//! What something is made from, looked up; and all that follows from it without making it.

use std::collections::{BTreeMap, BTreeSet};

use crate::Error;
use crate::image::Look;
use crate::manifests;
use crate::memory::Memory;
use crate::nix::Built;
use crate::nix::{Derivation, Nix};
use crate::oci::{Digest, Package};
use crate::plan;
use crate::sbom::Lock;
use crate::source::Source;
use crate::spec::{Build, Image, Manifests, Rebuild};
use crate::statement::{self, Identity, Origin, Predicate, Statements};
use crate::tree::{self, Files};

/// What something is made from.
#[derive(Debug)]
pub(crate) struct Recipe {
    pub(crate) identity: Identity,
    pub(crate) source: Source,
    what: What,
}

#[derive(Debug)]
enum What {
    Image {
        build: Build,
        image: Image,
        twice: bool,
        derivation: Derivation,
        lock: Option<Lock>,
    },
    Manifests {
        /// As they are in the commit.
        written: Files,
        /// What their images are pinned to, by name.
        references: BTreeMap<String, String>,
        package: Package,
    },
}

impl Recipe {
    /// What Nix would build of the commit.
    pub(crate) fn image(
        nix: &Nix<'_>,
        identity: &Identity,
        (build, image, rebuild): (&Build, &Image, Option<Rebuild>),
    ) -> Result<Self, Error> {
        let source = Source::look(nix.document, &build.flake)?;
        let (source, derivation) = nix.evaluate(&source, build)?;
        let lock = source.file("Cargo.lock")?;
        let lock = lock.map(|it| Lock::read(&it)).transpose();
        let lock = lock.map_err(|why| Error::Manifest { path: "Cargo.lock".to_owned(), why })?;
        let twice = rebuild.unwrap_or_default() == Rebuild::Required;
        let (build, image) = (build.clone(), image.clone());
        let what = What::Image { build, image, twice, derivation, lock };
        Ok(Self { identity: identity.clone(), source, what })
    }

    /// The manifests of the commit, with images pinned to `references`.
    pub(crate) fn manifests(
        identity: &Identity,
        declared: &Manifests,
        references: BTreeMap<String, String>,
    ) -> Result<Self, Error> {
        let source = Source::look(&identity.document, &declared.path)?;
        let written = tree::published(&source.tree()?).map_err(|mistakes| {
            let path = declared.path.display().to_string();
            Error::Manifest { path, why: mistakes.join("; ") }
        })?;
        let pinned = manifests::pin(&written, &references)?;
        let package = manifests::package(&pinned, &identity.source, &source.rev)?;
        let what = What::Manifests { written, references, package };
        Ok(Self { identity: identity.clone(), source, what })
    }

    fn look<'a>(&'a self, build: &Build, image: &'a Image) -> Look<'a> {
        let source = &self.identity.source;
        Look { image, system: build.system, source, rev: &self.source.rev }
    }

    /// The beginning of the commit, and of what is made of it. Two that differ never share one,
    /// so that a tag need not move, and nothing is left behind unnamed.
    pub(crate) fn tag(&self) -> Result<String, Error> {
        let of = match &self.what {
            What::Image { build, image, derivation, .. } => {
                let same = self.look(build, image).package(&BTreeMap::new(), "")?.digest();
                Digest::of(format!("{same} {}", derivation.digest).as_bytes())
            }
            What::Manifests { package, .. } => package.digest(),
        };
        let rev = self.source.rev.get(..7).unwrap_or_default();
        Ok(format!("{rev}-{}", &of.hex()[..8]))
    }

    /// What must be built, unless what is published tells what it comes out as.
    pub(crate) fn build(&self) -> Option<plan::Build> {
        match &self.what {
            What::Image { derivation, twice, .. } => {
                Some(plan::Build { derivation: derivation.path.clone(), twice: *twice })
            }
            What::Manifests { .. } => None,
        }
    }

    /// What can be made without building.
    pub(crate) fn at_hand(&self) -> Option<&Package> {
        match &self.what {
            What::Image { .. } => None,
            What::Manifests { package, .. } => Some(package),
        }
    }

    /// Builds it, builds it again, and packs it.
    pub(crate) fn make(
        &self,
        nix: &Nix<'_>,
        memory: &Memory,
    ) -> Result<Option<(Package, Built)>, Error> {
        let What::Image { build, image, twice, derivation, .. } = &self.what else {
            return Ok(None);
        };
        let name = &self.identity.document;
        let step = documents::step(name, "build");
        // Where it is already, to ask for it is half of the work.
        let closure = nix.closure(derivation).or_else(|_| {
            nix.build(derivation, build)?;
            nix.closure(derivation)
        })?;
        step.done(&derivation.out);
        let missing = || Error::NixGarbled { command: "path-info" };
        let nar_sha256 = closure.get(&derivation.out).ok_or_else(missing)?.clone();
        if *twice {
            documents::check_interrupt()?;
            let step = documents::step(name, "rebuild");
            if memory.holds(derivation, &nar_sha256) {
                step.done("the same bytes, when this machine built it again before");
            } else {
                // All outputs, of which a cache may have given some: `--check` needs each.
                nix.build(derivation, build)?;
                nix.rebuild(derivation, build)?;
                memory.keep(name, derivation, &nar_sha256);
                step.done("the same bytes");
            }
        }
        documents::check_interrupt()?;
        let look = self.look(build, image);
        if let Some(why) = look.cannot_start(&derivation.out) {
            return Err(Error::CannotStart { why });
        }
        let package = look.package(&closure, &derivation.out)?;
        Ok(Some((package, Built { nar_sha256, rebuilt: *twice, closure })))
    }

    /// Whether a published manifest and its configuration are ones that this makes.
    pub(crate) fn fits(&self, manifest: &[u8], config: &[u8]) -> bool {
        match &self.what {
            What::Image { build, image, .. } => self.look(build, image).fits(manifest, config),
            What::Manifests { package, .. } => package.manifest == manifest,
        }
    }

    /// What must be said of it.
    pub(crate) fn predicates(&self) -> BTreeSet<Predicate> {
        let nothing = Digest::of(b"");
        self.statements(&nothing, &Built::default()).into_keys().collect()
    }

    /// What must be said of the manifest with this digest, word for word.
    pub(crate) fn statements(&self, digest: &Digest, built: &Built) -> Statements {
        let Source { folder, rev, .. } = &self.source;
        let origin = Origin { identity: &self.identity, rev, folder };
        match &self.what {
            What::Image { build, derivation, lock, .. } => {
                let what = (build.attribute.as_str(), build.system.nix());
                let lock = lock.as_ref();
                statement::of_image(digest, origin, what, derivation, built, lock)
            }
            What::Manifests { references, .. } => {
                statement::of_manifests(digest, origin, references)
            }
        }
    }

    /// The images in a published layer that were neither pinned by us nor in the source; none for
    /// what has no such layer.
    pub(crate) fn strangers(&self, layer: &[u8]) -> Result<Vec<String>, Error> {
        match &self.what {
            What::Image { .. } => Ok(Vec::new()),
            What::Manifests { written, references, .. } => {
                manifests::strangers(layer, written, references)
            }
        }
    }
}
