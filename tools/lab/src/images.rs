//! The images that a cluster of the lab needs: packed from what was built here, once.

use std::env::consts::ARCH;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use documents::parallel_map;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::Error;
use crate::place::Place;
use crate::{command, files, http, lock};

/// The image of every pod's sandbox.
const PAUSE: (&str, &str) = ("pause", "1");

/// The sandbox's only process.
const PAUSE_SOURCE: &str = "#include <signal.h>
#include <unistd.h>
static void end(int signal) { (void)signal; _exit(0); }
int main(void) {
  signal(SIGINT, end);
  signal(SIGTERM, end);
  for (;;) pause();
}
";

/// What an image is made of.
struct Image<'a> {
    repository: &'a str,
    tag: &'a str,
    program: &'a Path,
    user: &'a str,
}

/// The reference of the image of every pod's sandbox.
pub(crate) fn pause(place: &Place) -> String {
    format!("{}/{}:{}", place.registry(), PAUSE.0, PAUSE.1)
}

/// Sees to the sandbox's image.
pub(crate) fn ensure_pause(place: &Place) -> Result<(), Error> {
    if is_there(place, PAUSE.0, PAUSE.1)? {
        return Ok(());
    }
    let folder = place.directory.join("images/pause");
    let (source, program) = (folder.join("pause.c"), folder.join("pause"));
    files::settle(&source, PAUSE_SOURCE.as_bytes(), 0o644)?;
    let mut compile = Command::new("gcc");
    compile.args(["-static", "-Os", "-s", "-Wl,--build-id=none", "-o"]).arg(&program).arg(&source);
    command::run(compile, "gcc")?;
    let (repository, tag) = PAUSE;
    pack(place, &Image { repository, tag, program: &program, user: "65535:65535" })
}

/// Sees to the images of Flux's controllers, tagged with the versions that were built.
pub(crate) fn ensure_flux(place: &Place) -> Result<(), Error> {
    let module = place.components.join("flux/go.mod");
    let text = fs::read_to_string(&module).map_err(files::cannot("read", &module))?;
    let one = |name: &str| {
        let required = format!("github.com/fluxcd/{name} ");
        let lines = text.lines().map(|it| it.trim().trim_start_matches("require "));
        let mut versions = lines.filter_map(|it| it.strip_prefix(&required));
        let tag = versions.find(|it| it.starts_with('v')).unwrap_or("v0");
        let tag = tag.split_ascii_whitespace().next().unwrap_or(tag);
        let repository = format!("fluxcd/{name}");
        if is_there(place, &repository, tag)? {
            return Ok(());
        }
        let program = place.program(name);
        pack(place, &Image { repository: &repository, tag, program: &program, user: "65534:65534" })
    };
    // Measured: 1.3 s one after the other, 0.8 s both at once.
    parallel_map(["source-controller", "kustomize-controller"].into_iter(), one)
        .into_iter()
        .collect()
}

/// Unknown is not absent: only the registry's own "no" makes an image again.
fn is_there(place: &Place, repository: &str, tag: &str) -> Result<bool, Error> {
    let path = format!("/v2/{repository}/tags/list");
    let answer = http::get(place.registry(), &path, None)?;
    match answer.status {
        200 => Ok(answer.body.contains(&format!("\"{tag}\""))),
        404 => Ok(false),
        status => Err(Error::Answer {
            url: format!("http://{}{path}", place.registry()),
            answer: status.to_string(),
        }),
    }
}

/// Packs one program into an image, the same bytes from the same program, and publishes it.
fn pack(place: &Place, image: &Image<'_>) -> Result<(), Error> {
    documents::check_interrupt()?;
    let name = image.program.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let step = documents::step(&name, "publish");
    let layout = layout(place, image, &name);
    if !layout.is_dir() {
        let _alone = lock::exclusive(&layout.with_extension("lock"))?;
        if !layout.is_dir() {
            // Otherwise another lab has made it meanwhile.
            let unfinished = layout.with_extension("unfinished");
            files::remove(&unfinished)?;
            lay_out(&unfinished, image, &name)?;
            fs::rename(&unfinished, &layout).map_err(files::cannot("write", &layout))?;
        }
    }
    let reference = format!("{}/{}:{}", place.registry(), image.repository, image.tag);
    let mut push = crane(place);
    push.args(["push", "--insecure"]).arg(&layout).arg(&reference);
    command::run(push, "crane push")?;
    step.done(reference);
    Ok(())
}

/// Where the image of a program is. One that the lab has built is kept beside what was built.
fn layout(place: &Place, image: &Image<'_>, name: &str) -> PathBuf {
    let kept = || {
        let program = image.program.canonicalize().ok()?;
        // The folder is named after all that decides the bytes of what is in it.
        let built = program.parent()?;
        let key = built.strip_prefix(place.cache.join("components").canonicalize().ok()?).ok()?;
        Some(place.cache.join("images").join(key))
    };
    let folder = kept().unwrap_or_else(|| place.directory.join("images"));
    folder.join(format!("{name}-{}.zstd.oci", image.tag))
}

/// Writes an image layout (OCI image specification, `image-layout.md`). The layer is compressed with
/// zstd: registry and containerd each write every byte of it to the disk and wait for that.
fn lay_out(layout: &Path, image: &Image<'_>, name: &str) -> Result<(), Error> {
    let blobs = layout.join("blobs/sha256");
    files::folder(&blobs)?;
    let blob = |of: &str, content: &[u8]| -> Result<Value, Error> {
        let digest = files::hex(&Sha256::digest(content));
        let path = blobs.join(&digest);
        fs::write(&path, content).map_err(files::cannot("write", &path))?;
        Ok(json!({
            "mediaType": format!("application/vnd.oci.image.{of}"),
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

fn crane(place: &Place) -> Command {
    let mut crane = Command::new(place.program("crane"));
    // Nobody's credentials have any part in this.
    crane.env_clear().env("HOME", place.directory.join("images"));
    crane
}

/// An archive of the program and an empty `/tmp`, without times and owners.
fn layer(folder: &Path, program: &Path, name: &str) -> Result<PathBuf, Error> {
    let (tree, layer) = (folder.join("tree"), folder.join("layer.tar"));
    let bin = tree.join("usr/local/bin");
    files::folder(&bin)?;
    files::folder(&tree.join("tmp"))?;
    fs::copy(program, bin.join(name)).map_err(files::cannot("copy", program))?;
    // Whatever the umask was; anybody may write to /tmp.
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
