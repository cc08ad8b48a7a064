//! Packs the images that a cluster of the lab needs from the programs that the lab has built.

use std::env::consts::ARCH;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use documents::parallel_map;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::Error;
use crate::paths::LabPaths;
use crate::{command, files, http, lock};

/// Repository and tag of the image of every pod's sandbox.
const PAUSE: (&str, &str) = ("pause", "1");

/// C source of the sandbox's only process.
const PAUSE_SOURCE: &str = "#include <signal.h>
#include <unistd.h>
static void end(int signal) { (void)signal; _exit(0); }
int main(void) {
  signal(SIGINT, end);
  signal(SIGTERM, end);
  for (;;) pause();
}
";

/// Name and contents of one image.
struct Image<'a> {
    repository: &'a str,
    tag: &'a str,
    program: &'a Path,
    user: &'a str,
}

/// Returns the reference of the sandbox's image.
pub(crate) fn pause(paths: &LabPaths) -> String {
    format!("{}/{}:{}", paths.registry(), PAUSE.0, PAUSE.1)
}

/// Publishes the sandbox's image, unless the registry has it.
pub(crate) fn ensure_pause(paths: &LabPaths) -> Result<(), Error> {
    if is_there(paths, PAUSE.0, PAUSE.1)? {
        return Ok(());
    }
    let folder = paths.directory.join("images/pause");
    let (source, program) = (folder.join("pause.c"), folder.join("pause"));
    files::settle(&source, PAUSE_SOURCE.as_bytes(), 0o644)?;
    let mut compile = Command::new("gcc");
    compile.args(["-static", "-Os", "-s", "-Wl,--build-id=none", "-o"]).arg(&program).arg(&source);
    command::run(compile, "gcc")?;
    let (repository, tag) = PAUSE;
    pack(paths, &Image { repository, tag, program: &program, user: "65535:65535" })
}

/// Publishes the images of Flux's controllers, unless the registry has them. Their tags are the
/// versions in the component's `go.mod`.
pub(crate) fn ensure_flux(paths: &LabPaths) -> Result<(), Error> {
    let module = paths.components.join("flux/go.mod");
    let text = fs::read_to_string(&module).map_err(files::cannot("read", &module))?;
    let ensure = |name: &str| {
        let required = format!("github.com/fluxcd/{name} ");
        let lines = text.lines().map(|line| line.trim().trim_start_matches("require "));
        let mut versions = lines.filter_map(|line| line.strip_prefix(&required));
        let tag = versions.find(|version| version.starts_with('v')).unwrap_or("v0");
        let tag = tag.split_ascii_whitespace().next().unwrap_or(tag);
        let repository = format!("fluxcd/{name}");
        if is_there(paths, &repository, tag)? {
            return Ok(());
        }
        let program = paths.program(name);
        pack(paths, &Image { repository: &repository, tag, program: &program, user: "65534:65534" })
    };
    // In parallel, because that takes 0.8 s instead of 1.3 s (measured).
    parallel_map(["source-controller", "kustomize-controller"].into_iter(), ensure)
        .into_iter()
        .collect()
}

/// Returns whether the registry has the tag. Only status 404 means that the tag is absent; any
/// other failure is an error, because unknown is not absent.
fn is_there(paths: &LabPaths, repository: &str, tag: &str) -> Result<bool, Error> {
    let path = format!("/v2/{repository}/tags/list");
    let answer = http::get(paths.registry(), &path, None)?;
    match answer.status {
        200 => Ok(answer.body.contains(&format!("\"{tag}\""))),
        404 => Ok(false),
        status => Err(Error::Answer {
            url: format!("http://{}{path}", paths.registry()),
            answer: status.to_string(),
        }),
    }
}

/// Packs one program into an image and publishes the image. The same program gives the same bytes.
fn pack(paths: &LabPaths, image: &Image<'_>) -> Result<(), Error> {
    documents::check_interrupt()?;
    let name = image.program.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let step = documents::step(&name, "publish");
    let layout = layout(paths, image, &name);
    if !layout.is_dir() {
        let _lock = lock::exclusive(&layout.with_extension("lock"))?;
        if !layout.is_dir() {
            // Checked again under the lock: another lab may have packed the image meanwhile.
            let unfinished = layout.with_extension("unfinished");
            files::remove(&unfinished)?;
            lay_out(&unfinished, image, &name)?;
            fs::rename(&unfinished, &layout).map_err(files::cannot("write", &layout))?;
        }
    }
    let reference = format!("{}/{}:{}", paths.registry(), image.repository, image.tag);
    let mut push = crane(paths);
    push.args(["push", "--insecure"]).arg(&layout).arg(&reference);
    command::run(push, "crane push")?;
    step.done(reference);
    Ok(())
}

/// Returns the folder of a program's image. The image of a program in the cache is kept in the
/// cache as well; any other image is kept in the lab's folder.
fn layout(paths: &LabPaths, image: &Image<'_>, name: &str) -> PathBuf {
    let cached = || {
        let program = image.program.canonicalize().ok()?;
        // The folder's name is a digest of everything that decides the program's bytes.
        let built = program.parent()?;
        let key = built.strip_prefix(paths.cache.join("components").canonicalize().ok()?).ok()?;
        Some(paths.cache.join("images").join(key))
    };
    let folder = cached().unwrap_or_else(|| paths.directory.join("images"));
    folder.join(format!("{name}-{}.zstd.oci", image.tag))
}

/// Writes an image layout (<https://github.com/opencontainers/image-spec/blob/v1.1.1/image-layout.md>).
/// The layer is compressed with zstd, because the registry and containerd each write every byte of
/// the layer to the disk and wait for the disk.
fn lay_out(layout: &Path, image: &Image<'_>, name: &str) -> Result<(), Error> {
    let blobs = layout.join("blobs/sha256");
    files::folder(&blobs)?;
    let blob = |kind: &str, content: &[u8]| -> Result<Value, Error> {
        let digest = files::hex(&Sha256::digest(content));
        let path = blobs.join(&digest);
        fs::write(&path, content).map_err(files::cannot("write", &path))?;
        Ok(json!({
            "mediaType": format!("application/vnd.oci.image.{kind}"),
            "digest": format!("sha256:{digest}"),
            "size": content.len(),
        }))
    };
    let archive = layer(layout, image.program, name)?;
    let bytes = fs::read(&archive).map_err(files::cannot("read", &archive))?;
    files::remove(&archive)?;
    let unpacked = format!("sha256:{}", files::hex(&Sha256::digest(&bytes)));
    let packed = zstd::encode_all(&*bytes, zstd::DEFAULT_COMPRESSION_LEVEL)
        .map_err(files::cannot("pack", &archive))?;
    let layer = blob("layer.v1.tar+zstd", &packed)?;
    let config = json!({
        "architecture": match ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        },
        "os": "linux",
        "config": {"User": image.user, "Entrypoint": [format!("/usr/local/bin/{name}")]},
        "rootfs": {"type": "layers", "diff_ids": [unpacked]},
    });
    let config = blob("config.v1+json", config.to_string().as_bytes())?;
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": config,
        "layers": [layer],
    });
    let manifest = blob("manifest.v1+json", manifest.to_string().as_bytes())?;
    let index = json!({"schemaVersion": 2, "manifests": [manifest]});
    let version = json!({"imageLayoutVersion": "1.0.0"});
    for (file, content) in [("index.json", index), ("oci-layout", version)] {
        let path = layout.join(file);
        fs::write(&path, content.to_string()).map_err(files::cannot("write", &path))?;
    }
    Ok(())
}

fn crane(paths: &LabPaths) -> Command {
    let mut crane = Command::new(paths.program("crane"));
    // An empty environment and home keep the user's registry credentials out of the lab.
    crane.env_clear().env("HOME", paths.directory.join("images"));
    crane
}

/// Writes an archive of the program and an empty `/tmp`. Times and owners are fixed, so that the
/// archive is reproducible.
fn layer(folder: &Path, program: &Path, name: &str) -> Result<PathBuf, Error> {
    let (tree, layer) = (folder.join("tree"), folder.join("layer.tar"));
    let bin = tree.join("usr/local/bin");
    files::folder(&bin)?;
    files::folder(&tree.join("tmp"))?;
    fs::copy(program, bin.join(name)).map_err(files::cannot("copy", program))?;
    // Explicit modes, because the umask must not change the archive; /tmp is writable for all users.
    for (mode, write, what) in [("a+rX,u+w", "-cf", "usr"), ("1777", "-rf", "tmp")] {
        let mut tar = Command::new("tar");
        tar.args(["--sort=name", "--mtime=@0", "--owner=0", "--group=0", "--numeric-owner"]);
        tar.args(["--format=ustar", &format!("--mode={mode}"), write]).arg(&layer);
        tar.arg("-C").arg(&tree).arg(what);
        command::run(tar, "tar")?;
    }
    files::remove(&tree)?;
    Ok(layer)
}
