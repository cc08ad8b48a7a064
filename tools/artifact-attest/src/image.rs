//! Container image of a Nix build result: layers, whose bytes do not depend on the packing machine.

mod archive;
mod machine;

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Seek as _, Write};
use std::num::NonZero;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::thread;

use documents::parallel_map_limited;
use serde_json::{Value, json};
use sha2::Digest as _;
use tar::EntryType;

use crate::Error;
use crate::base;
use crate::layers::layers;
use crate::nix::{Closure, References};
use crate::oci::{Blob, Content, Descriptor, Digest, IMAGE_CONFIG, IMAGE_LAYER, Manifest, Package};
use crate::spec::{Image, System};
pub(crate) use archive::archive;
use archive::{Hashing, append, gzip, link, size, sorted, tree};

/// Top-level names that an image cannot link: the store itself, and the runtime's mount points.
const RESERVED: [&str; 4] = ["nix", "proc", "dev", "sys"];

/// Metadata of a container image.
#[derive(Clone, Debug)]
pub(crate) struct ImageMetadata<'a> {
    pub(crate) image: &'a Image,
    pub(crate) system: System,
    pub(crate) source: &'a str,
    pub(crate) rev: &'a str,
}

impl ImageMetadata<'_> {
    fn annotations(&self) -> BTreeMap<String, String> {
        annotations(self.source, self.rev)
    }

    fn config(&self, diff_ids: &[Digest]) -> Vec<u8> {
        let Image { user, entrypoint, command, working_directory, ca_certificates, .. } =
            self.image;
        let mut environment = BTreeMap::from([("PATH", "/bin")]);
        environment.extend(ca_certificates.then_some(("SSL_CERT_FILE", base::CA_FILE)));
        environment.extend(
            self.image.environment.iter().map(|(name, value)| (name.as_str(), value.as_str())),
        );
        let environment: Vec<_> =
            environment.into_iter().map(|(name, value)| format!("{name}={value}")).collect();
        let mut labels = self.annotations();
        labels.extend(self.image.labels.clone());
        let mut config = json!({
            "User": user,
            "Env": environment,
            "Entrypoint": entrypoint,
            "WorkingDir": working_directory,
            "Labels": labels,
        });
        if !command.is_empty() {
            config["Cmd"] = json!(command);
        }
        let ports = self.image.ports.iter().map(|port| (format!("{port}/tcp"), json!({})));
        config["ExposedPorts"] = json!(ports.collect::<BTreeMap<_, Value>>());
        crate::json::bytes(&json!({
            "architecture": self.system.oci(),
            "os": "linux",
            "config": config,
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        }))
    }

    fn manifest(&self, config: &[u8], layers: Vec<Descriptor>) -> Vec<u8> {
        let config = Descriptor::of(IMAGE_CONFIG, config);
        Manifest { annotations: self.annotations(), ..Manifest::of(config, layers) }.bytes()
    }

    /// Returns the reason why a container of the image could not start, if there is one. `out` is
    /// the build result, whose top-level folders are linked from `/`.
    pub(crate) fn cannot_start(&self, out: &str) -> Option<String> {
        let out = Path::new(out);
        for name in RESERVED {
            if fs::symlink_metadata(out.join(name)).is_ok() {
                return Some(format!(
                    "{out} has the top-level entry `{name}`, which an image cannot link from /{name}",
                    out = out.display()
                ));
            }
        }
        if self.image.ca_certificates && fs::symlink_metadata(out.join("etc/ssl")).is_ok() {
            return Some(format!(
                "{} has its own etc/ssl: remove it, or `image.caCertificates`",
                out.display()
            ));
        }
        let program = self.image.entrypoint.first()?;
        let path = Path::new(program);
        // The runtime looks up a name without a slash in PATH, which is /bin.
        let path =
            if program.contains('/') { path.to_owned() } else { Path::new("/bin").join(path) };
        let path = if path.starts_with("/nix/store") {
            path
        } else {
            out.join(path.strip_prefix("/").unwrap_or(&path))
        };
        let is_program = fs::metadata(&path)
            .is_ok_and(|there| there.is_file() && there.permissions().mode() & 0o111 != 0);
        if !is_program {
            return Some(format!(
                "`{program}` in `image.entrypoint` is not an executable file of the build result: {}",
                path.display()
            ));
        }
        let found = machine::system_of(&path).filter(|found| *found != self.system)?;
        Some(format!(
            "`{program}` in `image.entrypoint` is a program for {}, and `build.system` is {}",
            found.nix(),
            self.system.nix()
        ))
    }

    /// Returns the image of `closure`. The top-level folders of `out` are linked from `/`.
    pub(crate) fn package(
        &self,
        closure: &Closure,
        references: &References,
        out: &str,
    ) -> Result<Package, Error> {
        let packed = pack(closure, references, Path::new(out), &base::files(self.image))
            .map_err(|source| Error::Unreadable { what: out.to_owned(), source })?;
        let (mut blobs, diff_ids): (Vec<_>, Vec<_>) = packed.into_iter().unzip();
        let config = self.config(&diff_ids);
        let layers = blobs.iter().map(|blob| blob.descriptor.clone()).collect();
        let manifest = self.manifest(&config, layers);
        blobs.push(Blob::new(IMAGE_CONFIG, config));
        Ok(Package { manifest, blobs })
    }

    /// Whether a published manifest and configuration equal those that [`Self::package`] would make
    /// of the published layers.
    pub(crate) fn fits(&self, manifest: &[u8], config: &[u8]) -> bool {
        let layers = serde_json::from_slice::<Manifest>(manifest).map(|manifest| manifest.layers);
        let diff_ids = serde_json::from_slice::<Value>(config)
            .and_then(|config| serde_json::from_value(config["rootfs"]["diff_ids"].clone()));
        let (Ok(layers), Ok::<Vec<Digest>, _>(diff_ids)) = (layers, diff_ids) else { return false };
        let is_layer = |layer: &Descriptor| layer.media_type == IMAGE_LAYER;
        !layers.is_empty()
            && layers.len() == diff_ids.len()
            && layers.iter().all(is_layer)
            && self.config(&diff_ids) == config
            && self.manifest(config, layers) == manifest
    }
}

pub(crate) fn annotations(source: &str, rev: &str) -> BTreeMap<String, String> {
    let title = |name: &str| format!("org.opencontainers.image.{name}");
    [(title("revision"), rev.to_owned()), (title("source"), source.to_owned())].into()
}

/// Returns the layers of `closure`, each with the digest of its uncompressed bytes.
fn pack(
    closure: &Closure,
    references: &References,
    out: &Path,
    base: &base::Files,
) -> io::Result<Vec<(Blob, Digest)>> {
    let sizes = closure.keys().map(|path| Ok((path.as_str(), size(Path::new(path))?)));
    let sizes = sizes.collect::<io::Result<BTreeMap<_, _>>>()?;
    let layers = layers(&sizes, references, &out.to_string_lossy());
    let last = layers.len() - 1;
    // Compression takes most of the time.
    let threads = thread::available_parallelism().map_or(1, NonZero::get);
    let packed = parallel_map_limited(threads, layers.iter().enumerate(), |(index, paths)| {
        layer(paths, (index == last).then_some((out, base)))
    });
    packed.into_iter().collect()
}

/// Returns the layer with `paths`, and the digest of its uncompressed bytes. The last layer of an image has
/// the links to the build result, and the files that every image has.
fn layer(paths: &[&str], last: Option<(&Path, &base::Files)>) -> io::Result<(Blob, Digest)> {
    let mut archive = tar::Builder::new(Hashing::new(gzip(Hashing::new(tempfile::tempfile()?))));
    for folder in ancestors(paths) {
        append(&mut archive, &folder, EntryType::Directory, 0o755, 0, io::empty())?;
    }
    for path in paths {
        tree(&mut archive, Path::new(path))?;
    }
    if let Some((out, base)) = last {
        top(&mut archive, out, base)?;
    }
    let archive = archive.into_inner()?;
    let diff_id = Digest::from_sha256(&archive.hash.finalize());
    let mut compressed = archive.inner.finish()?;
    compressed.flush()?;
    let (digest, size) = (Digest::from_sha256(&compressed.hash.finalize()), compressed.size);
    let mut file = compressed.inner;
    file.rewind()?;
    let descriptor = Descriptor { media_type: IMAGE_LAYER.to_owned(), digest, size };
    Ok((Blob { descriptor, content: Content::File(file) }, diff_id))
}

/// Appends the links to the build result, and the files that every image has.
fn top<W: Write>(archive: &mut tar::Builder<W>, out: &Path, base: &base::Files) -> io::Result<()> {
    let mut linked = Vec::new();
    for entry in sorted(out)? {
        let name = Path::new(entry.file_name().unwrap_or_default());
        if name == Path::new("etc") {
            // A folder with links, so that the image's own files have a place in it.
            linked.extend(
                sorted(&entry)?
                    .into_iter()
                    .map(|file| (name.join(file.file_name().unwrap_or_default()), file)),
            );
        } else {
            linked.push((name.to_owned(), entry.clone()));
        }
    }
    for folder in [("etc", 0o755), ("tmp", 0o1777)] {
        let name = Path::new(folder.0);
        if linked.iter().all(|(linked, _)| linked != name) {
            append(archive, name, EntryType::Directory, folder.1, 0, io::empty())?;
        }
    }
    for (name, to) in &linked {
        link(archive, name, to)?;
    }
    // A file of the package wins over one of these.
    let is_free = |path: &Path| linked.iter().all(|(linked, _)| !path.starts_with(linked));
    for (path, content) in base.iter().filter(|(path, _)| is_free(Path::new(path))) {
        for folder in Path::new(path).ancestors().skip(1).collect::<Vec<_>>().into_iter().rev() {
            // `etc` exists since the loop above.
            if folder.components().count() > 1 {
                append(archive, folder, EntryType::Directory, 0o755, 0, io::empty())?;
            }
        }
        let size = content.len() as u64;
        append(archive, Path::new(path), EntryType::Regular, 0o444, size, content.as_slice())?;
    }
    Ok(())
}

/// Returns every folder above `paths` except the root: `nix`, `nix/store`.
fn ancestors(paths: &[&str]) -> Vec<PathBuf> {
    let above = paths.iter().flat_map(|path| Path::new(path).ancestors().skip(1));
    let mut above: Vec<_> = above.filter_map(|folder| folder.strip_prefix("/").ok()).collect();
    above.retain(|folder| !folder.as_os_str().is_empty());
    above.sort();
    above.dedup();
    above.into_iter().map(Path::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// Returns the only layer of a closure of one path.
    fn only_layer(out: &Path, base: &base::Files) -> io::Result<(Blob, Digest)> {
        let closure = Closure::from([(out.display().to_string(), "0".repeat(64))]);
        let mut packed = pack(&closure, &References::new(), out, base)?;
        assert_eq!(packed.len(), 1, "a small closure has one layer");
        Ok(packed.remove(0))
    }

    fn files(root: &Path) -> io::Result<()> {
        fs::create_dir_all(root.join("bin"))?;
        fs::write(root.join("bin/run"), "#!/bin/sh\n")?;
        fs::set_permissions(root.join("bin/run"), fs::Permissions::from_mode(0o755))?;
        fs::write(root.join("notes"), "x".repeat(70_000))?;
        symlink("bin/run", root.join("start"))
    }

    #[test]
    fn a_layer_does_not_depend_on_the_time_and_the_mode_of_its_files() -> io::Result<()> {
        let folder = tempfile::tempdir()?;
        let out = folder.path().join("a-path-in-a-store-that-is-long-enough-to-need-more-than-one-header-of-a-tar-archive-because-it-exceeds-a-hundred");
        files(&out)?;
        let (first, diff_id) = only_layer(&out, &base::Files::new())?;
        let notes = fs::File::options().append(true).open(out.join("notes"))?;
        notes.set_modified(std::time::SystemTime::now() + std::time::Duration::from_secs(9))?;
        fs::set_permissions(out.join("bin/run"), fs::Permissions::from_mode(0o700))?;
        let (second, again) = only_layer(&out, &base::Files::new())?;
        assert_eq!((first.descriptor, diff_id), (second.descriptor, again));
        Ok(())
    }

    #[test]
    fn a_layer_links_the_build_result_from_the_root() -> io::Result<()> {
        let folder = tempfile::tempdir()?;
        let out = folder.path().join("out");
        files(&out)?;
        let (blob, _) = only_layer(&out, &base::Files::new())?;
        let Content::File(file) = blob.content else { unreachable!("a layer is a file") };
        let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(file));
        let mut links = BTreeMap::new();
        for entry in archive.entries()? {
            let entry = entry?;
            if let Some(to) = entry.link_name()? {
                links.insert(entry.path()?.display().to_string(), to.display().to_string());
            }
        }
        assert_eq!(links["bin"], out.join("bin").display().to_string());
        Ok(())
    }

    /// Creates a closure of 40 packages of one MiB and a build result, which refers to all of them. Returns
    /// the closure, the references, and the path of the build result.
    fn large_closure(
        store: &Path,
        changed: Option<usize>,
    ) -> io::Result<(Closure, References, PathBuf)> {
        let version = |index| if changed == Some(index) { 2 } else { 1 };
        let letter = |number: usize| char::from(b'a' + u8::try_from(number).unwrap_or_default());
        let part = |index: usize| {
            let (name, version) = ([letter(index / 20), letter(index % 20)], version(index));
            store.join(format!("{index:031}{version}-part-{}{}-{version}.0", name[0], name[1]))
        };
        let out = store.join(format!("{:031}{}-app-1.0", 99, u8::from(changed.is_some())));
        files(&out)?;
        for index in 0..40 {
            fs::write(
                part(index),
                vec![u8::try_from(version(index)).unwrap_or_default(); 1 << 20],
            )?;
        }
        let parts = (0..40).map(|index| part(index).display().to_string());
        let references = References::from([(out.display().to_string(), parts.clone().collect())]);
        let paths = parts.chain([out.display().to_string()]);
        Ok((paths.map(|path| (path, "0".repeat(64))).collect(), references, out))
    }

    fn names(blob: Blob) -> io::Result<Vec<String>> {
        let Content::File(file) = blob.content else { unreachable!("a layer is a file") };
        let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(file));
        let entries = archive.entries()?;
        entries.map(|entry| Ok(entry?.path()?.display().to_string())).collect()
    }

    #[test]
    fn the_second_version_of_a_large_closure_sends_at_most_a_tenth_of_the_first() -> io::Result<()>
    {
        let folder = tempfile::tempdir()?;
        let mut versions = Vec::new();
        for changed in [None, Some(7)] {
            let store = folder.path().join(format!("{changed:?}")).join("nix/store");
            fs::create_dir_all(&store)?;
            let (closure, references, out) = large_closure(&store, changed)?;
            // The folder of each version differs, which no layer of a real store would show.
            let packed = pack(&closure, &references, &out, &base::Files::new())?;
            assert!(packed.len() > 10, "{} layers", packed.len());
            let sizes: Vec<_> = packed.iter().map(|(blob, _)| blob.descriptor.size).collect();
            let names = packed.into_iter().map(|(blob, _)| names(blob));
            versions.push((names.collect::<io::Result<Vec<_>>>()?, sizes));
        }
        let (before, _) = &versions[0];
        let (after, sizes) = &versions[1];
        let relative = |names: &Vec<String>| -> Vec<String> {
            let inside = names.iter().filter_map(|name| name.split_once("nix/store/"));
            inside.map(|(_, name)| name.to_owned()).collect()
        };
        let known: Vec<_> = before.iter().map(relative).collect();
        let sent = after.iter().zip(sizes).filter(|(names, _)| !known.contains(&relative(names)));
        let sent: Vec<_> = sent.map(|(_, size)| *size).collect();
        assert_eq!(sent.len(), 2, "the layer of the package, and that of the build result");
        assert!(sent.iter().sum::<u64>() * 10 <= sizes.iter().sum(), "{sent:?} of {sizes:?}");
        let has_link = |names: &&Vec<String>| names.iter().any(|name| name == "bin");
        assert_eq!(after.iter().filter(has_link).count(), 1, "one layer has the links");
        Ok(())
    }

    #[test]
    fn a_published_image_fits_with_all_of_its_layers_in_their_order() -> Result<(), Error> {
        let folder = tempfile::tempdir().expect("a folder");
        let (closure, references, out) = large_closure(folder.path(), None).expect("files");
        let image = image("");
        let metadata =
            ImageMetadata { image: &image, system: System::Amd64, source: "s", rev: "r" };
        let out = out.display().to_string();
        let Package { manifest, blobs } = metadata.package(&closure, &references, &out)?;
        let again = metadata.package(&closure, &references, &out)?;
        assert_eq!(manifest, again.manifest, "the same bytes, whichever thread was faster");
        let Some(Content::Bytes(config)) = blobs.last().map(|blob| &blob.content) else {
            unreachable!("the configuration is the last blob")
        };
        assert!(metadata.fits(&manifest, config));
        let changed = |change: fn(&mut Vec<Descriptor>)| {
            let mut manifest: Manifest = serde_json::from_slice(&manifest).expect("a manifest");
            change(&mut manifest.layers);
            manifest.bytes()
        };
        assert!(!metadata.fits(&changed(|layers| drop(layers.pop())), config));
        assert!(!metadata.fits(&changed(Vec::clear), config));
        assert!(!metadata.fits(&changed(|layers| layers[0].media_type = "a".to_owned()), config));
        assert!(!metadata.fits(&manifest, b"{}"));
        Ok(())
    }

    fn image(more: &str) -> Image {
        let image = format!("{{\"repository\": \"aa\", \"entrypoint\": [\"/bin/run\"]{more}}}");
        serde_json::from_str(&image).expect("an image")
    }

    /// Returns the entries of the layer with their modes and contents.
    fn unpacked(out: &Path, image: &Image) -> io::Result<BTreeMap<String, (u32, String)>> {
        let (blob, _) = only_layer(out, &base::files(image))?;
        let Content::File(file) = blob.content else { unreachable!("a layer is a file") };
        let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(file));
        let mut entries = BTreeMap::new();
        for entry in archive.entries()? {
            let mut entry = entry?;
            let path = entry.path()?.display().to_string();
            let mut content = Vec::new();
            io::Read::read_to_end(&mut entry, &mut content)?;
            let content = String::from_utf8_lossy(&content).into_owned();
            let known = entries.insert(path.clone(), (entry.header().mode()?, content));
            assert_eq!(known, None, "{path} is there once");
        }
        Ok(entries)
    }

    #[test]
    fn every_image_has_a_temporary_folder_and_users() -> io::Result<()> {
        // Nothing that Nix builds is below `/tmp`, which every image has as a folder of its own.
        let temporary = std::env::temp_dir();
        let is_tmp = temporary.starts_with("/tmp");
        let folder = tempfile::tempdir_in(if is_tmp { Path::new("/var/tmp") } else { &temporary })?;
        let out = folder.path().join("out");
        files(&out)?;
        let all = unpacked(&out, &image(", \"user\": \"1000:2000\", \"caCertificates\": true"))?;
        assert_eq!(all["tmp/"].0, 0o1777);
        assert!(all["etc/passwd"].1.contains("\nuser:x:1000:2000:"), "{}", all["etc/passwd"].1);
        assert!(all["etc/group"].1.contains("\nuser:x:2000:"));
        assert!(all["etc/ssl/certs/ca-certificates.crt"].1.matches("BEGIN CERT").count() > 50);
        assert!(!unpacked(&out, &image(""))?.keys().any(|path| path.contains("ssl")));
        Ok(())
    }

    #[test]
    fn files_of_the_package_win_over_those_of_every_image() -> io::Result<()> {
        let folder = tempfile::tempdir()?;
        let out = folder.path().join("out");
        files(&out)?;
        fs::create_dir(out.join("etc"))?;
        fs::write(out.join("etc/passwd"), "theirs")?;
        fs::create_dir(out.join("tmp"))?;
        let all = unpacked(&out, &image(""))?;
        assert_eq!(all["etc/passwd"], (0o777, String::new()), "a link");
        assert!(all["etc/group"].1.starts_with("root:"));
        assert_eq!(all["tmp"].0, 0o777, "a link");
        Ok(())
    }

    #[test]
    fn the_configuration_has_what_the_document_declares() {
        let image = image(
            ", \"command\": [\"-v\"], \"environment\": {\"TZ\": \"UTC\", \"PATH\": \"/opt\"}, \"labels\": {\"a\": \"b\"}, \"workingDirectory\": \"/srv\", \"caCertificates\": true",
        );
        let metadata =
            ImageMetadata { image: &image, system: System::Amd64, source: "s", rev: "r" };
        let config: Value =
            serde_json::from_slice(&metadata.config(&[Digest::of(b"")])).expect("JSON");
        let config = &config["config"];
        assert_eq!(
            config["Env"],
            json!(["PATH=/opt", "SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt", "TZ=UTC"])
        );
        assert_eq!((&config["Cmd"], &config["WorkingDir"]), (&json!(["-v"]), &json!("/srv")));
        assert_eq!(config["Labels"]["a"], "b");
        assert_eq!(config["Labels"]["org.opencontainers.image.revision"], "r");
    }
}
