//! The images that a cluster of the lab needs: packed from what was built here, once.

use std::env::consts::ARCH;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Error;
use crate::files;
use crate::http;
use crate::place::Place;

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
    run(compile, "gcc")?;
    let (repository, tag) = PAUSE;
    pack(place, &Image { repository, tag, program: &program, user: "65535:65535" })
}

/// Sees to the images of Flux's controllers, tagged with the versions that were built.
pub(crate) fn ensure_flux(place: &Place) -> Result<(), Error> {
    let module = place.components.join("flux/go.mod");
    let text = fs::read_to_string(&module).map_err(files::cannot("read", &module))?;
    for name in ["source-controller", "kustomize-controller"] {
        let required = format!("github.com/fluxcd/{name} ");
        let lines = text.lines().map(|it| it.trim().trim_start_matches("require "));
        let mut versions = lines.filter_map(|it| it.strip_prefix(&required));
        let tag = versions.find(|it| it.starts_with('v')).unwrap_or("v0");
        let tag = tag.split_ascii_whitespace().next().unwrap_or(tag);
        let repository = format!("fluxcd/{name}");
        if !is_there(place, &repository, tag)? {
            let program = place.program(name);
            pack(
                place,
                &Image { repository: &repository, tag, program: &program, user: "65534:65534" },
            )?;
        }
    }
    Ok(())
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
    phase::uninterrupted()?;
    let name = image.program.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let kept = kept(place, image, &name);
    if let Some(kept) = kept.as_ref().filter(|it| it.is_dir()) {
        return push(place, image, &name, kept);
    }
    let step = phase::begin(&name, "pack");
    let layer = layer(place, image.program, &name)?;
    let reference = format!("{}/{}", place.registry(), image.repository);
    // The tag that others look for comes last, so that half an image is never taken for one.
    let unfinished = format!("{reference}:unfinished");
    let mut append = crane(place);
    append.args([
        "append",
        "--insecure",
        "--oci-empty-base",
        "--new_tag",
        &unfinished,
        "--new_layer",
    ]);
    append.arg(&layer);
    run(append, "crane append")?;
    let architecture = match ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let (finished, platform) =
        (format!("{reference}:{}", image.tag), format!("linux/{architecture}"));
    let mut mutate = crane(place);
    mutate.args([
        "mutate",
        "--insecure",
        &unfinished,
        "--entrypoint",
        &format!("/usr/local/bin/{name}"),
    ]);
    mutate.args(["--user", image.user, "--set-platform", &platform, "--tag", &finished]);
    run(mutate, "crane mutate")?;
    files::remove(&layer)?;
    if let Some(kept) = kept {
        keep(place, &finished, &kept)?;
    }
    step.done(finished);
    Ok(())
}

/// Where the image of a program that the lab has built is kept: to compress it takes seconds.
fn kept(place: &Place, image: &Image<'_>, name: &str) -> Option<PathBuf> {
    let program = image.program.canonicalize().ok()?;
    let built = program.parent()?;
    // The folder is named after all that decides the bytes of what is in it.
    let key = built.strip_prefix(place.cache.join("components").canonicalize().ok()?).ok()?;
    Some(place.cache.join("images").join(key).join(format!("{name}-{}", image.tag)))
}

/// Keeps the image as it is in the registry: wholly or not at all.
fn keep(place: &Place, reference: &str, kept: &Path) -> Result<(), Error> {
    let unfinished = kept.with_extension("unfinished");
    files::remove(&unfinished)?;
    files::folder(kept.parent().unwrap_or(&place.cache))?;
    let mut pull = crane(place);
    pull.args(["pull", "--insecure", "--format", "oci", reference]).arg(&unfinished);
    run(pull, "crane pull")?;
    fs::rename(&unfinished, kept).map_err(files::cannot("write", kept))
}

/// Publishes an image that was kept.
fn push(place: &Place, image: &Image<'_>, name: &str, kept: &Path) -> Result<(), Error> {
    let step = phase::begin(name, "push");
    let reference = format!("{}/{}:{}", place.registry(), image.repository, image.tag);
    let mut push = crane(place);
    push.args(["push", "--insecure"]).arg(kept).arg(&reference);
    run(push, "crane push")?;
    step.done(reference);
    Ok(())
}

fn crane(place: &Place) -> Command {
    let mut crane = Command::new(place.program("crane"));
    // Nobody's credentials have any part in this.
    crane.env_clear().env("HOME", place.directory.join("images"));
    crane
}

/// An archive of the program and an empty `/tmp`, without times and owners.
fn layer(place: &Place, program: &Path, name: &str) -> Result<PathBuf, Error> {
    let images = place.directory.join("images");
    let (tree, layer) = (images.join(format!("{name}.tree")), images.join(format!("{name}.tar")));
    files::remove(&tree)?;
    let bin = tree.join("usr/local/bin");
    files::folder(&bin)?;
    files::folder(&tree.join("tmp"))?;
    fs::copy(program, bin.join(name)).map_err(files::cannot("copy", program))?;
    let mut tar = Command::new("tar");
    tar.args(["--sort=name", "--mtime=@0", "--owner=0", "--group=0", "--numeric-owner"]);
    // Whatever the umask was; anybody may write to /tmp.
    tar.args(["--mode=a+rX,u+w", "--format=ustar", "-cf"]).arg(&layer).arg("-C").arg(&tree);
    run(
        {
            tar.arg("usr");
            tar
        },
        "tar",
    )?;
    let mut tar = Command::new("tar");
    tar.args(["--mtime=@0", "--owner=0", "--group=0", "--numeric-owner", "--mode=1777"]);
    tar.args(["--format=ustar", "-rf"]).arg(&layer).arg("-C").arg(&tree).arg("tmp");
    run(tar, "tar")?;
    files::remove(&tree)?;
    Ok(layer)
}

fn run(mut command: Command, name: &str) -> Result<(), Error> {
    let said = command.output().map_err(files::cannot("start", name.as_ref()))?;
    if said.status.success() {
        return Ok(());
    }
    let error = String::from_utf8_lossy(&said.stderr);
    let line = error.lines().rev().find(|it| !it.trim().is_empty()).unwrap_or("it said nothing");
    Err(Error::Command { command: name.to_owned(), said: line.chars().take(400).collect() })
}
