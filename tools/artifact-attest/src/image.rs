//! Container image of a Nix build result: one layer, whose bytes do not depend on the packing
//! machine.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Seek as _, Write};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use flate2::{Compression, GzBuilder};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tar::{EntryType, Header};

use crate::Error;
use crate::base;
use crate::nix::Closure;
use crate::oci::{Blob, Content, Descriptor, Digest, IMAGE_CONFIG, IMAGE_LAYER, Manifest, Package};
use crate::spec::{Image, System};

/// Modification time of every file in a layer, in Unix seconds: 1, as in the Nix store.
const MADE: u64 = 1;
/// Top-level names that an image cannot link: the store itself, and the runtime's mount points.
const RESERVED: [&str; 4] = ["nix", "proc", "dev", "sys"];
/// Operating system in the header of a gzip stream: unknown.
const GZIP_OS_UNKNOWN: u8 = 255;

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

    fn config(&self, diff_id: &Digest) -> Vec<u8> {
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
            "rootfs": {"type": "layers", "diff_ids": [diff_id]},
        }))
    }

    fn manifest(&self, config: &[u8], layer: Descriptor) -> Vec<u8> {
        let config = Descriptor::of(IMAGE_CONFIG, config);
        Manifest { annotations: self.annotations(), ..Manifest::new(config, layer) }.bytes()
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
        (!is_program).then(|| {
            format!(
                "`{program}` in `image.entrypoint` is not an executable file of the build result: {}",
                path.display()
            )
        })
    }

    /// Returns the image of `closure`. The top-level folders of `out` are linked from `/`.
    pub(crate) fn package(&self, closure: &Closure, out: &str) -> Result<Package, Error> {
        let (layer, diff_id) = layer(closure, Path::new(out), &base::files(self.image))
            .map_err(|source| Error::Unreadable { what: out.to_owned(), source })?;
        let config = self.config(&diff_id);
        let manifest = self.manifest(&config, layer.descriptor.clone());
        Ok(Package { manifest, blobs: vec![layer, Blob::new(IMAGE_CONFIG, config)] })
    }

    /// Whether a published manifest and configuration equal those that [`Self::package`] would make
    /// of the published layer.
    pub(crate) fn fits(&self, manifest: &[u8], config: &[u8]) -> bool {
        let layer = serde_json::from_slice::<Manifest>(manifest).ok();
        let layer = layer.and_then(|manifest| manifest.layers.into_iter().next());
        let diff_id = serde_json::from_slice::<Value>(config).ok();
        let diff_id =
            diff_id.and_then(|config| config["rootfs"]["diff_ids"][0].as_str().map(str::to_owned));
        match (layer, diff_id.map(Digest::try_from)) {
            (Some(layer), Some(Ok(diff_id))) => {
                layer.media_type == IMAGE_LAYER
                    && self.config(&diff_id) == config
                    && self.manifest(config, layer) == manifest
            }
            _ => false,
        }
    }
}

pub(crate) fn annotations(source: &str, rev: &str) -> BTreeMap<String, String> {
    let title = |name: &str| format!("org.opencontainers.image.{name}");
    [(title("revision"), rev.to_owned()), (title("source"), source.to_owned())].into()
}

/// Returns the layer, and the digest of its uncompressed bytes.
fn layer(closure: &Closure, out: &Path, base: &base::Files) -> io::Result<(Blob, Digest)> {
    let mut archive = tar::Builder::new(Hashing::new(gzip(Hashing::new(tempfile::tempfile()?))));
    for folder in ancestors(closure) {
        append(&mut archive, &folder, EntryType::Directory, 0o755, 0, io::empty())?;
    }
    for path in closure.keys() {
        tree(&mut archive, Path::new(path))?;
    }
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
            append(&mut archive, name, EntryType::Directory, folder.1, 0, io::empty())?;
        }
    }
    for (name, to) in &linked {
        link(&mut archive, name, to)?;
    }
    // A file of the package wins over one of these.
    let is_free = |path: &Path| linked.iter().all(|(linked, _)| !path.starts_with(linked));
    for (path, content) in base.iter().filter(|(path, _)| is_free(Path::new(path))) {
        for folder in Path::new(path).ancestors().skip(1).collect::<Vec<_>>().into_iter().rev() {
            // `etc` exists since the loop above.
            if folder.components().count() > 1 {
                append(&mut archive, folder, EntryType::Directory, 0o755, 0, io::empty())?;
            }
        }
        let size = content.len() as u64;
        append(&mut archive, Path::new(path), EntryType::Regular, 0o444, size, content.as_slice())?;
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

pub(crate) fn gzip<W: Write>(to: W) -> flate2::write::GzEncoder<W> {
    GzBuilder::new().mtime(0).operating_system(GZIP_OS_UNKNOWN).write(to, Compression::new(6))
}

/// Returns every folder above the paths of `closure` except the root: `nix`, `nix/store`.
fn ancestors(closure: &Closure) -> Vec<PathBuf> {
    let above = closure.keys().flat_map(|path| Path::new(path).ancestors().skip(1));
    let mut above: Vec<_> = above.filter_map(|folder| folder.strip_prefix("/").ok()).collect();
    above.retain(|folder| !folder.as_os_str().is_empty());
    above.sort();
    above.dedup();
    above.into_iter().map(Path::to_owned).collect()
}

fn sorted(folder: &Path) -> io::Result<Vec<PathBuf>> {
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let mut entries =
        fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
    entries.sort();
    Ok(entries)
}

fn tree<W: Write>(archive: &mut tar::Builder<W>, path: &Path) -> io::Result<()> {
    let there = fs::symlink_metadata(path)?;
    let name = path.strip_prefix("/").unwrap_or(path);
    if there.is_symlink() {
        return link(archive, name, &fs::read_link(path)?);
    }
    // The Nix store keeps no mode except the executable bit.
    let executable = there.is_dir() || there.permissions().mode() & 0o100 != 0;
    let mode = if executable { 0o555 } else { 0o444 };
    if there.is_dir() {
        append(archive, name, EntryType::Directory, mode, 0, io::empty())?;
        return sorted(path)?.iter().try_for_each(|entry| tree(archive, entry));
    }
    append(archive, name, EntryType::Regular, mode, there.len(), File::open(path)?)
}

fn header(kind: EntryType, mode: u32, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(MADE);
    header.set_size(size);
    header
}

fn append<W: Write>(
    archive: &mut tar::Builder<W>,
    name: &Path,
    kind: EntryType,
    mode: u32,
    size: u64,
    content: impl io::Read,
) -> io::Result<()> {
    let mut name = name.as_os_str().as_bytes().to_vec();
    if kind == EntryType::Directory {
        name.push(b'/');
    }
    let name = PathBuf::from(std::ffi::OsStr::from_bytes(&name));
    archive.append_data(&mut header(kind, mode, size), name, content)
}

fn link<W: Write>(archive: &mut tar::Builder<W>, name: &Path, to: &Path) -> io::Result<()> {
    archive.append_link(&mut header(EntryType::Symlink, 0o777, 0), name, to)
}

/// Returns the files as a compressed tar archive, and the digest of the uncompressed bytes.
pub(crate) fn archive(files: &BTreeMap<String, Vec<u8>>) -> io::Result<(Vec<u8>, Digest)> {
    let mut archive = tar::Builder::new(Hashing::new(gzip(Vec::new())));
    for (name, content) in files {
        let (name, size) = (Path::new(name), content.len() as u64);
        append(&mut archive, name, EntryType::Regular, 0o644, size, content.as_slice())?;
    }
    let archive = archive.into_inner()?;
    let diff_id = Digest::from_sha256(&archive.hash.finalize());
    Ok((archive.inner.finish()?, diff_id))
}

/// Writer that hashes and counts the bytes passing through.
struct Hashing<W> {
    inner: W,
    hash: Sha256,
    size: u64,
}

impl<W> Hashing<W> {
    fn new(inner: W) -> Self {
        Self { inner, hash: Sha256::new(), size: 0 }
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hash.update(&bytes[..written]);
        self.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

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
        let closure = Closure::from([(out.display().to_string(), "0".repeat(64))]);
        let (first, diff_id) = layer(&closure, &out, &base::Files::new())?;
        let notes = File::options().append(true).open(out.join("notes"))?;
        notes.set_modified(std::time::SystemTime::now() + std::time::Duration::from_secs(9))?;
        fs::set_permissions(out.join("bin/run"), fs::Permissions::from_mode(0o700))?;
        let (second, again) = layer(&closure, &out, &base::Files::new())?;
        assert_eq!((first.descriptor, diff_id), (second.descriptor, again));
        Ok(())
    }

    #[test]
    fn a_layer_links_the_build_result_from_the_root() -> io::Result<()> {
        let folder = tempfile::tempdir()?;
        let out = folder.path().join("out");
        files(&out)?;
        let closure = Closure::from([(out.display().to_string(), "0".repeat(64))]);
        let (blob, _) = layer(&closure, &out, &base::Files::new())?;
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

    fn image(more: &str) -> Image {
        let image = format!("{{\"repository\": \"aa\", \"entrypoint\": [\"/bin/run\"]{more}}}");
        serde_json::from_str(&image).expect("an image")
    }

    /// Returns the entries of the layer with their modes and contents.
    fn unpacked(out: &Path, image: &Image) -> io::Result<BTreeMap<String, (u32, String)>> {
        let closure = Closure::from([(out.display().to_string(), "0".repeat(64))]);
        let (blob, _) = layer(&closure, out, &base::files(image))?;
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
        let folder = tempfile::tempdir()?;
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
            serde_json::from_slice(&metadata.config(&Digest::of(b""))).expect("JSON");
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
