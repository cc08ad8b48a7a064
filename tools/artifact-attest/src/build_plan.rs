//! Plan of one build: its source and derivation, and everything that follows from them without
//! building.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use contract::facts::ImageFacts;
use documents::WritePermit;

use crate::Error;
use crate::desired;
use crate::image::{self, ImageMetadata};
use crate::image_index;
use crate::manifests;
use crate::nix::roots::Roots;
use crate::nix::{BuildResult, Derivation, Nix};
use crate::oci::{Digest, Package};
use crate::rebuild_cache::RebuildCache;
use crate::sbom::Contents;
use crate::sbom::licenses::of_archives;
use crate::sbom::lock::{Crates, Lock, Manifest, Roots as CargoRoots};
use crate::source::Source;
use crate::spec::{self, Build, Image, Manifests, Rebuild, Tag};
use crate::statement::{self, Identity, Making, Origin, Predicate, Statements};
use crate::tree::{self, Files};

/// Source of an artifact, and the instructions to build it.
#[derive(Debug)]
pub(crate) struct BuildPlan {
    pub(crate) identity: Identity,
    pub(crate) source: Source,
    product: Product,
    /// Declared tags, with placeholders.
    tags: Vec<Tag>,
}

#[derive(Debug)]
enum Product {
    Image {
        build: Build,
        image: Box<Image>,
        twice: bool,
        derivation: Box<Derivation>,
        contents: Contents,
        /// Links that keep the build result in the store, since the first build of this run.
        roots: OnceLock<Roots>,
    },
    Manifests {
        /// Files as in the commit.
        written: Files,
        /// Pinned references of the images, by document name.
        references: BTreeMap<String, String>,
        package: Package,
    },
    Index {
        images: Vec<ImageFacts>,
        package: Package,
    },
}

impl BuildPlan {
    /// Evaluates the flake of an image.
    pub(crate) fn image(
        nix: &Nix<'_>,
        identity: &Identity,
        (build, image, rebuild): (&Build, &Image, Option<Rebuild>),
        tags: &[Tag],
    ) -> Result<Self, Error> {
        let source = Source::find(nix.document, &build.flake)?;
        let (source, derivation) = nix.evaluate(&source, build)?;
        let contents = Contents::new(&source, crates(&source, &derivation)?)?;
        let twice = rebuild.unwrap_or_default() == Rebuild::Required;
        let (build, image) = (build.clone(), Box::new(image.clone()));
        let (derivation, roots) = (Box::new(derivation), OnceLock::new());
        let product = Product::Image { build, image, twice, derivation, contents, roots };
        Ok(Self { identity: identity.clone(), source, product, tags: tags.to_vec() })
    }

    /// Reads the manifests of the commit, and pins their images to `references`. `key` is the digest of the key that signs
    /// them.
    pub(crate) fn manifests(
        identity: &Identity,
        key: &str,
        declared: &Manifests,
        references: BTreeMap<String, String>,
        tags: &[Tag],
    ) -> Result<Self, Error> {
        let source = Source::find(&identity.document, &declared.path)?;
        let written = tree::published(&source.tree()?).map_err(|mistakes| {
            let path = declared.path.display().to_string();
            Error::Manifest { path, why: mistakes.join("; ") }
        })?;
        let pinned = manifests::pin(&written, &references)?;
        let package = manifests::package(&pinned, &identity.source, &source.rev, key)?;
        let product = Product::Manifests { written, references, package };
        Ok(Self { identity: identity.clone(), source, product, tags: tags.to_vec() })
    }

    /// Lists the images that other documents publish. `path` is in the repository of their commits, of which the newest
    /// counts.
    pub(crate) fn index(
        identity: &Identity,
        path: &Path,
        images: Vec<ImageFacts>,
        tags: &[Tag],
    ) -> Result<Self, Error> {
        let commits: Vec<_> = images.iter().map(|image| image.commit.as_str()).collect();
        let source = Source::newest(&identity.document, path, &commits)?;
        let annotations = image::annotations(&identity.source, &source.rev);
        let package = image_index::package(&images, annotations)?;
        let product = Product::Index { images, package };
        Ok(Self { identity: identity.clone(), source, product, tags: tags.to_vec() })
    }

    fn metadata<'a>(&'a self, build: &Build, image: &'a Image) -> ImageMetadata<'a> {
        let source = &self.identity.source;
        ImageMetadata { image, system: build.system, source, rev: &self.source.rev }
    }

    /// Returns the artifact's tag: the beginnings of the commit and of the content's digest.
    /// Different content has a different tag, so a tag never moves, and no manifest loses its last
    /// tag.
    pub(crate) fn tag(&self) -> Result<String, Error> {
        let content = match &self.product {
            Product::Image { build, image, derivation, .. } => {
                let same = self
                    .metadata(build, image)
                    .package(&BTreeMap::new(), &BTreeMap::new(), "")?
                    .digest();
                Digest::of(format!("{same} {}", derivation.digest).as_bytes())
            }
            Product::Manifests { package, .. } | Product::Index { package, .. } => package.digest(),
        };
        let rev = self.source.rev.get(..7).unwrap_or_default();
        Ok(format!("{rev}-{}", &content.hex()[..8]))
    }

    /// Returns the declared tags with the package's version and the commit in place of the placeholders.
    pub(crate) fn tags(&self) -> Result<Vec<String>, Error> {
        let versions = self.versions();
        let version = versions.first().map_or("", String::as_str);
        let rev = self.source.rev.get(..7).unwrap_or_default();
        let filled = |tag: &Tag| {
            let tag = tag.as_str();
            if versions.len() > 1 && tag.contains("{version}") {
                let named = |version: &String| {
                    if version.is_empty() { "none".to_owned() } else { version.clone() }
                };
                let versions = versions.iter().map(named).collect();
                return Err(Error::Versions { tag: tag.to_owned(), versions });
            }
            // A tag has no `+`, which versions have before build metadata; Helm writes `_`, too
            // (https://helm.sh/docs/topics/registries/#oci-feature-deprecation-and-behavior-changes-with-v380).
            let filled = tag.replace("{version}", &version.replace('+', "_")).replace("{rev}", rev);
            if !spec::is_tag(&filled) || (version.is_empty() && tag.contains("{version}")) {
                let (tag, version) = (tag.to_owned(), version.to_owned());
                return Err(Error::NoVersion { tag, version });
            }
            Ok(filled)
        };
        self.tags.iter().map(filled).collect()
    }

    /// Returns the versions of the flakes' packages; several if the images of an index differ.
    fn versions(&self) -> BTreeSet<String> {
        match &self.product {
            Product::Image { derivation, .. } => [derivation.version.clone()].into(),
            Product::Manifests { .. } => BTreeSet::new(),
            Product::Index { images, .. } => {
                images.iter().map(|image| image.version.clone()).collect()
            }
        }
    }

    /// Returns the version of the flake's package, if it has one.
    pub(crate) fn version(&self) -> Option<String> {
        let mut versions = self.versions().into_iter();
        let (first, second) = (versions.next(), versions.next());
        first.filter(|version| second.is_none() && !version.is_empty())
    }

    /// Returns the platform of an image, for example `linux/arm64`.
    pub(crate) fn platform(&self) -> Option<String> {
        match &self.product {
            Product::Image { build, .. } => Some(format!("linux/{}", build.system.oci())),
            Product::Manifests { .. } | Product::Index { .. } => None,
        }
    }

    /// Returns the build that `apply` needs, unless a published provenance already has its result.
    pub(crate) fn needed_build(&self) -> Option<desired::Build> {
        match &self.product {
            Product::Image { derivation, twice, .. } => {
                Some(desired::Build { derivation: derivation.path.clone(), twice: *twice })
            }
            Product::Manifests { .. } | Product::Index { .. } => None,
        }
    }

    /// Returns the package if it can be made without building.
    pub(crate) fn prebuilt(&self) -> Option<&Package> {
        match &self.product {
            Product::Image { .. } => None,
            Product::Manifests { package, .. } | Product::Index { package, .. } => Some(package),
        }
    }

    /// Builds the image's content, and returns what the build revealed.
    pub(crate) fn build(&self, nix: &Nix<'_>, _: &WritePermit) -> Result<BuildResult, Error> {
        let Product::Image { build, derivation, contents, roots, .. } = &self.product else {
            return Err(documents::Error::out_of_order().into());
        };
        let roots = kept_by(roots)?;
        // Try the store first: other outputs of an existing result may be missing, and the image does not need them.
        let is_built = fs::symlink_metadata(&derivation.out).is_ok();
        if !is_built || !nix.keep(&derivation.out, roots)? {
            nix.build(derivation, build, roots)?;
        }
        let (closure, references) = nix.closure(derivation)?;
        let missing = || Error::NixGarbled { command: "path-info" };
        let nar_sha256 = closure.get(&derivation.out).ok_or_else(missing)?.clone();
        let builder = nix.builder()?;
        let licenses = of_archives(nix, derivation, build, roots, contents.crates.as_ref())?;
        Ok(BuildResult { nar_sha256, rebuilt: false, closure, references, builder, licenses })
    }

    /// Builds a second time, compares the results, and returns a detail for people. Does not repeat
    /// a second build that `rebuild_cache` contains.
    pub(crate) fn rebuild(
        &self,
        nix: &Nix<'_>,
        rebuild_cache: &RebuildCache,
        built: &mut BuildResult,
        _: &WritePermit,
    ) -> Result<&'static str, Error> {
        let Product::Image { build, derivation, roots, .. } = &self.product else {
            return Err(documents::Error::out_of_order().into());
        };
        let is_cached = rebuild_cache.contains_rebuild(derivation, &built.nar_sha256);
        if !is_cached {
            // Build all outputs, because `--check` needs each, and a substituter may have provided
            // only some.
            nix.build(derivation, build, kept_by(roots)?)?;
            nix.rebuild(derivation, build)?;
            rebuild_cache.record(nix.document, derivation, &built.nar_sha256);
        }
        built.rebuilt = true;
        Ok(if is_cached {
            "bit-identical, as recorded by an earlier second build on this machine"
        } else {
            "bit-identical"
        })
    }

    /// Packs a build result as an image.
    pub(crate) fn pack(&self, built: &BuildResult) -> Result<Package, Error> {
        let Product::Image { build, image, derivation, .. } = &self.product else {
            return Err(documents::Error::out_of_order().into());
        };
        let metadata = self.metadata(build, image);
        if let Some(why) = metadata.cannot_start(&derivation.out) {
            return Err(Error::CannotStart { why });
        }
        metadata.package(&built.closure, &built.references, &derivation.out)
    }

    /// Returns the store path of the build result; empty if the artifact is not built.
    pub(crate) fn out(&self) -> &str {
        match &self.product {
            Product::Image { derivation, .. } => &derivation.out,
            Product::Manifests { .. } | Product::Index { .. } => "",
        }
    }

    /// Whether a published manifest and its configuration could be the output of this plan.
    pub(crate) fn fits(&self, manifest: &[u8], config: &[u8]) -> bool {
        match &self.product {
            Product::Image { build, image, .. } => {
                self.metadata(build, image).fits(manifest, config)
            }
            Product::Manifests { package, .. } | Product::Index { package, .. } => {
                package.manifest == manifest
            }
        }
    }

    /// Returns the kinds of statements that this artifact needs.
    pub(crate) fn predicates(&self) -> BTreeSet<Predicate> {
        let nothing = Digest::of(b"");
        self.statements(&nothing, &BuildResult::default()).into_keys().collect()
    }

    /// Returns the exact statements that must be signed for the manifest with this digest.
    pub(crate) fn statements(&self, digest: &Digest, built: &BuildResult) -> Statements {
        let Source { folder, rev, .. } = &self.source;
        let origin = Origin { identity: &self.identity, rev, folder };
        match &self.product {
            Product::Image { build, derivation, contents, .. } => {
                let (attribute, system) = (build.attribute.as_str(), build.system.nix());
                let making = Making { attribute, system, derivation, contents };
                statement::of_image(digest, origin, making, built)
            }
            Product::Manifests { references, .. } => {
                statement::of_manifests(digest, origin, references)
            }
            Product::Index { images, .. } => {
                let references = images.iter().map(|image| image.reference.as_str());
                statement::of_index(digest, origin, references)
            }
        }
    }

    /// Returns the images in a published layer that are neither pinned by us nor in the source. An
    /// artifact without such a layer has none.
    pub(crate) fn unattested_images(&self, layer: &[u8]) -> Result<Vec<String>, Error> {
        match &self.product {
            Product::Image { .. } | Product::Index { .. } => Ok(Vec::new()),
            Product::Manifests { written, references, .. } => {
                manifests::unattested_images(layer, written, references)
            }
        }
    }
}

/// Returns the links of this run, which are made by its first build.
fn kept_by(cell: &OnceLock<Roots>) -> Result<&Roots, Error> {
    if let Some(roots) = cell.get() {
        return Ok(roots);
    }
    let roots = Roots::new()?;
    Ok(cell.get_or_init(|| roots))
}

/// Returns the crates that the build result may contain: of the first `Cargo.lock` with a package that the build
/// makes. If its packages are unknown, the nearest lock counts as a whole, because the list must not be too short.
fn crates(source: &Source, derivation: &Derivation) -> Result<Option<Crates>, Error> {
    let lock = |path: &str| {
        let bytes = source.file_at(path)?.unwrap_or_default();
        Lock::read(&bytes).map_err(|why| Error::Manifest { path: path.to_owned(), why })
    };
    let paths = source.nearest("Cargo.lock")?;
    let own = if source.folder.is_empty() { String::new() } else { format!("{}/", source.folder) };
    // A derivation that wraps a program, for example with `runCommand`, does not run Cargo itself.
    let top = derivation.graph.drv(&derivation.path).filter(|drv| drv.is_cargo());
    let of_cargo: Vec<_> =
        top.map_or_else(|| derivation.graph.of_cargo().collect(), |drv| vec![drv]);
    for path in paths.iter().filter(|_| !of_cargo.is_empty()) {
        let folder = path.strip_suffix("Cargo.lock").unwrap_or_default();
        let manifest = |below: &str| {
            let below = below.trim_start_matches("./").trim_matches('/');
            let below = if below.is_empty() { String::new() } else { format!("{below}/") };
            let bytes = source.file_at(&format!("{folder}{below}Cargo.toml")).ok().flatten();
            bytes.and_then(|bytes| Manifest::read(&bytes))
        };
        let lock = lock(path)?;
        let mut packages = BTreeSet::new();
        for drv in &of_cargo {
            match lock.roots(drv, manifest, !path.starts_with(&own)) {
                CargoRoots::Packages(more) => packages.extend(more),
                CargoRoots::Workspace => return Ok(Some(Crates::new(lock, None))),
                CargoRoots::Unknown => {}
            }
        }
        if !packages.is_empty() {
            return Ok(Some(Crates::new(lock, Some(packages))));
        }
    }
    let beside = format!("{own}Cargo.lock");
    let whole = match paths.first() {
        Some(path) if *path == beside || top.is_some() => Some(lock(path)?),
        _ => None,
    };
    Ok(whole.map(|lock| Crates::new(lock, None)))
}
