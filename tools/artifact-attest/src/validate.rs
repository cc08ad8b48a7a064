//! Validations of an `Artifact` that its types cannot express.

use ::remote::registry::is_docker_hub;
use contract::Projects;
use documents::{Declared, Stream};

use crate::desired::{self, Shape};
use crate::spec::{Artifact, Image, Index, System, Tag};
use crate::{manifests, source, tree};

/// Longest time limit of one build in seconds: a day.
const BUILD_SECONDS_MAX: u32 = 86_400;

/// Reports every error in `declared` documents.
pub(crate) fn validate(stream: &mut Stream, projects: &Projects, declared: &[Declared<Artifact>]) {
    for document in declared {
        for (path, message) in errors(stream, projects, declared, document) {
            stream.invalid(document, &path, &message);
        }
    }
}

/// Whether the document's Project is known and has no binary cache.
fn lacks_cache(projects: &Projects, document: &Declared<Artifact>) -> bool {
    let project = projects.get(&document.spec.project);
    project.is_ok_and(|project| {
        project.spec.endpoints.nix.as_ref().is_none_or(|nix| nix.cache.is_none())
    })
}

/// Whether `text` is a numeric UID or `UID:GID`.
fn is_user(text: &str) -> bool {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.split(':').all(is_number) && text.split(':').count() <= 2
}

/// Returns the JSON pointer and the message of each error in `document`.
fn errors(
    stream: &Stream,
    projects: &Projects,
    declared: &[Declared<Artifact>],
    document: &Declared<Artifact>,
) -> Vec<(String, String)> {
    let mut errors = Vec::new();
    let mut error = |path: &str, message: &str| errors.push((path.to_owned(), message.to_owned()));
    if let Ok(project) = projects.get(&document.spec.project) {
        if project.spec.endpoints.registry.is_none() {
            error("/spec/project", "that Project has no `endpoints.registry` to publish to");
        }
        let path = project.spec.endpoints.registry.as_ref().map(|registry| registry.url.path());
        if path.is_some_and(|path| path.bytes().any(|byte| byte.is_ascii_uppercase())) {
            error(
                "/spec/project",
                "the path of that Project's `endpoints.registry.url` has capital letters, which OCI repository names exclude: write the path in lower case",
            );
        }
        let registry = project.spec.endpoints.registry.as_ref();
        let authority = registry.and_then(|registry| registry.certificate_authority.as_deref());
        if let Err(why) = ::remote::authorities_of(authority) {
            error("/spec/project", &format!("in that Project, {why}"));
        }
        let is_nameless = |registry: &contract::Registry| {
            is_docker_hub(registry.url.host())
                && registry.token.is_some()
                && registry.user.is_none()
        };
        if registry.is_some_and(is_nameless) {
            error(
                "/spec/project",
                "that Project's `endpoints.registry` has a token without `user`, and Docker Hub checks the user: give your Docker ID",
            );
        }
        if desired::source_url(stream, project, document).is_none() {
            error(
                "/spec",
                "the URL of the source is unknown: give `source`, or put the project's Repository, and its `endpoints.forge`, into the stream",
            );
        }
    }
    let needs_version = |tag: &Tag| tag.as_str().contains("{version}");
    let has_version = document.spec.manifests.is_none();
    if let Some(index) =
        document.spec.tags.iter().position(|tag| !has_version && needs_version(tag))
    {
        error(&format!("/spec/tags/{index}"), "manifests have no version: use `{rev}`");
    }
    let folder =
        "not a folder: paths are relative to the working directory, the root of the repository";
    match Shape::of(&document.spec) {
        None => {
            error(
                "/spec",
                "an Artifact has either `build` and `image`, or `manifests` alone, or `index` alone",
            );
        }
        Some(Shape::Image(build, image)) => {
            if !build.flake.is_dir() {
                error("/spec/build/flake", folder);
            }
            if build.cache && lacks_cache(projects, document) {
                error("/spec/build/cache", "that Project has no `endpoints.nix.cache` to copy to");
            }
            if image.entrypoint.is_empty() {
                error("/spec/image/entrypoint", "the image needs a command to run");
            }
            for (field, message) in mistakes_of(image) {
                error(&format!("/spec/image/{field}"), &message);
            }
            if !is_user(&image.user) {
                error("/spec/image/user", "not a numeric UID or UID:GID, for example 65532");
            }
            if !(1..=BUILD_SECONDS_MAX).contains(&build.timeout_seconds) {
                error("/spec/build/timeoutSeconds", "the time limit is 1 to 86400 seconds");
            }
        }
        Some(Shape::Manifests(declared)) if declared.path.is_dir() => {
            let tree = source::shown(document.name.as_str(), &declared.path);
            match tree.map(|tree| tree::published(&tree)) {
                Ok(Ok(files)) if !files.keys().any(|path| tree::is_yaml(path)) => {
                    error("/spec/manifests/path", "the folder has no *.yaml file");
                }
                Ok(Ok(files)) => {
                    for message in manifests::mistakes(&files, &declared.images) {
                        error("/spec/manifests/images", &message);
                    }
                }
                Ok(Err(messages)) => {
                    for message in messages {
                        error("/spec/manifests/path", &message);
                    }
                }
                Err(unreadable) => error("/spec/manifests/path", &unreadable.to_string()),
            }
        }
        Some(Shape::Manifests(_)) => error("/spec/manifests/path", folder),
        Some(Shape::Index(index)) => {
            for (field, message) in mistakes_of_index(index, document, declared) {
                error(&format!("/spec/index/{field}"), &message);
            }
        }
    }
    errors
}

/// Returns the mistakes in the configuration of an image, each with its field.
fn mistakes_of(image: &Image) -> Vec<(String, String)> {
    let mut mistakes = Vec::new();
    let mut mistake = |field: String, message: &str| mistakes.push((field, message.to_owned()));
    let is_path = image.working_directory.starts_with('/')
        && !image.working_directory.split('/').any(|part| part == "..")
        && !image.working_directory.contains(char::is_control);
    if !is_path {
        mistake("workingDirectory".to_owned(), "not an absolute path, for example /srv");
    }
    for (name, value) in &image.environment {
        let is_name = !name.starts_with(|letter: char| letter.is_ascii_digit())
            && !name.is_empty()
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        if !is_name || value.contains('\0') {
            let message =
                "not a variable: use a name of letters, digits and _, and a value without NUL";
            mistake(format!("environment/{}", pointer(name)), message);
        }
    }
    for name in image.labels.keys() {
        if ["revision", "source"]
            .iter()
            .any(|own| *name == format!("org.opencontainers.image.{own}"))
        {
            mistake(
                format!("labels/{}", pointer(name)),
                "this program writes that label: the commit determines it",
            );
        }
    }
    mistakes
}

/// Returns the mistakes in an index, each with its field. `declared` are all artifacts.
fn mistakes_of_index(
    index: &Index,
    document: &Declared<Artifact>,
    declared: &[Declared<Artifact>],
) -> Vec<(String, String)> {
    let mut mistakes = Vec::new();
    if index.images.is_empty() {
        let message = "an index lists at least one image".to_owned();
        mistakes.push(("images".to_owned(), message));
    }
    let mut systems: Vec<(System, &str)> = Vec::new();
    for (position, name) in index.images.iter().enumerate() {
        let mut mistake = |message| mistakes.push((format!("images/{position}"), message));
        // The stream reports names that no document has.
        let Some(found) = declared.iter().find(|other| other.name == *name) else { continue };
        let Some(Shape::Image(build, image)) = Shape::of(&found.spec) else {
            mistake(format!("Artifact/{name} is not an image: list documents with `image`"));
            continue;
        };
        if found.spec.project != document.spec.project || image.repository != index.repository {
            mistake(format!(
                "Artifact/{name} is published to the repository `{}` of the Project `{}`: an index and its images need the same repository",
                image.repository.as_str(),
                found.spec.project
            ));
        }
        match systems.iter().find(|(system, _)| *system == build.system) {
            Some((system, other)) => mistake(format!(
                "`{other}` is for {}, too: list one image for each system",
                system.nix()
            )),
            None => systems.push((build.system, name.as_str())),
        }
    }
    mistakes
}

/// Escapes a key for a JSON pointer (RFC 6901).
fn pointer(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}
