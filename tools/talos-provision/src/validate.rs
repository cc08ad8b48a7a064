//! Validation that types cannot express. Every error is reported before anything is changed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use contract::Projects;
use documents::{Declared, Stream};
use jiff::ToSpan as _;

use crate::Error;
use crate::config::{self, Common, Patch};
use crate::desired::{Patches, settings};
use crate::pki::{self, Bundle};
use crate::spec::{Cluster, Pool, Role, Version};

/// Largest patch, in bytes.
const PATCH_BYTES_MAX: u64 = 1024 * 1024;
/// Most machines of one cluster, because Hetzner allows no more in one network.
const MACHINES_MAX: usize = 99;
/// Number of days before the end of the authorities from which on every run warns.
const WARN_DAYS: i64 = 90;
/// Longest name of a machine, because the name is a host name of one label (RFC 1035).
const NAME_LETTERS_MAX: usize = 63;

/// Reads the files to which the documents refer, and reports every error in them.
pub(crate) fn read(
    stream: &mut Stream,
    declared: &[Declared<Cluster>],
) -> (Projects, BTreeMap<String, Patches>) {
    let projects = Projects::read(stream);
    let mut patches = BTreeMap::new();
    for cluster in declared {
        let mut errors = Vec::new();
        let project = projects.get(&cluster.spec.project);
        if project.is_ok_and(|project| project.spec.endpoints.cloud.is_none()) {
            invalid(&mut errors, "/spec/project", "this Project has no `endpoints.cloud`");
        }
        versions(&cluster.spec, &mut errors);
        pools(cluster, &mut errors);
        networks(&cluster.spec, &mut errors);
        image(&cluster.spec, &mut errors);
        let read = read_patches(&cluster.spec, &mut errors);
        for (path, message) in errors {
            stream.invalid(cluster, &path, &message);
        }
        patches.insert(cluster.name.to_string(), read);
    }
    (projects, patches)
}

type ValidationErrors = Vec<(String, String)>;

fn invalid(errors: &mut ValidationErrors, path: impl Into<String>, message: impl Into<String>) {
    errors.push((path.into(), message.into()));
}

fn versions(spec: &Cluster, errors: &mut ValidationErrors) {
    let Version { major, minor, .. } = spec.talos;
    if (major, minor) != (1, 13) {
        let message = "this version supports only Talos v1.13";
        invalid(errors, "/spec/talos", message);
    } else if spec.kubernetes.major != 1 || !(31..=36).contains(&spec.kubernetes.minor) {
        let message = "Talos v1.13 runs Kubernetes v1.31 to v1.36";
        invalid(errors, "/spec/kubernetes", message);
    }
}

fn pools(cluster: &Declared<Cluster>, errors: &mut ValidationErrors) {
    let pools = &cluster.spec.pools;
    let mut names = BTreeSet::new();
    for (index, pool) in pools.iter().enumerate() {
        let path = |field: &str| format!("/spec/pools/{index}/{field}");
        if !names.insert(&pool.name) {
            invalid(errors, path("name"), "another pool has this name");
        }
        if pool.locations.is_empty() {
            invalid(errors, path("locations"), "declare at least one location");
        }
        let machine = format!("{}-{}-{}", cluster.name, pool.name, pool.count);
        if machine.len() > NAME_LETTERS_MAX {
            let message =
                format!("`{machine}` is longer than a host name, which has at most 63 characters");
            invalid(errors, path("name"), message);
        }
    }
    let count = |pool: &Pool| usize::from(pool.count);
    let controls = pools.iter().filter(|pool| pool.role == Role::Controlplane);
    let (number, last) =
        controls.fold((0, None), |(sum, _), pool| (sum + count(pool), Some(&pool.name)));
    if number % 2 == 0 {
        let index = pools.iter().position(|pool| Some(&pool.name) == last);
        let path =
            index.map_or("/spec/pools".to_owned(), |index| format!("/spec/pools/{index}/count"));
        let message = match number {
            0 => "no control plane is declared: declare one, three or five".to_owned(),
            _ => format!(
                "{number} control planes tolerate the loss of no more machines than {}: declare an odd number",
                number - 1
            ),
        };
        invalid(errors, path, message);
    }
    if pools.iter().map(count).sum::<usize>() > MACHINES_MAX {
        invalid(errors, "/spec/pools", format!("more than {MACHINES_MAX} machines are declared"));
    }
}

fn networks(spec: &Cluster, errors: &mut ValidationErrors) {
    let network = &spec.network;
    if !network.range.holds(network.nodes) {
        invalid(
            errors,
            "/spec/network/nodes",
            format!("not a part of the range {}", network.range),
        );
    }
    let named = [("range", network.range), ("pods", network.pods), ("services", network.services)];
    for (index, (name, subnet)) in named.iter().enumerate() {
        for (other, earlier) in &named[..index] {
            if subnet.overlaps(*earlier) {
                let message = format!("{subnet} overlaps `{other}`, which is {earlier}");
                invalid(errors, format!("/spec/network/{name}"), message);
            }
        }
    }
}

/// Rejects an extension that is declared twice, which would change the id of the schematic.
fn image(spec: &Cluster, errors: &mut ValidationErrors) {
    let mut names = BTreeSet::new();
    let extensions = spec.image.iter().flat_map(|image| &image.extensions);
    for (index, name) in extensions.enumerate() {
        if !names.insert(name) {
            let path = format!("/spec/image/extensions/{index}");
            invalid(errors, path, format!("`{}` is declared twice", name.as_str()));
        }
    }
}

/// Parses all patches, and applies them to a configuration with empty secrets.
fn read_patches(spec: &Cluster, errors: &mut ValidationErrors) -> Patches {
    let mut patches = Patches::default();
    for (index, file) in spec.patches.iter().enumerate() {
        let patch = read_patch(file, &format!("/spec/patches/{index}"), errors);
        patches.all.extend(patch);
    }
    for (number, pool) in spec.pools.iter().enumerate() {
        let before = errors.len();
        let files = pool.patches.iter().enumerate();
        let read: Vec<_> = files
            .filter_map(|(index, file)| {
                read_patch(file, &format!("/spec/pools/{number}/patches/{index}"), errors)
            })
            .collect();
        if errors.len() == before {
            check_patches(spec, pool, number, &patches.all, &read, errors);
        }
        patches.pools.push(read);
    }
    patches
}

fn check_patches(
    spec: &Cluster,
    pool: &Pool,
    number: usize,
    all: &[Patch],
    pool_patches: &[Patch],
    errors: &mut ValidationErrors,
) {
    let kubernetes = spec.kubernetes.to_string();
    let bundle = Bundle::default();
    let common = Common { cluster: "c", endpoint: "e", kubernetes: &kubernetes, bundle: &bundle };
    let mut tried = vec![settings(spec, "name", pool.role)];
    let named =
        all.iter().enumerate().map(|(index, file)| (format!("/spec/patches/{index}"), file));
    let path = |index| format!("/spec/pools/{number}/patches/{index}");
    let named =
        named.chain(pool_patches.iter().enumerate().map(|(index, file)| (path(index), file)));
    for (path, patch) in named {
        tried.push(patch.clone());
        let documents = config::generate(&common, pool.role);
        if let Err(why) = config::patched(documents, &tried) {
            let message = format!("does not fit the configuration of `{}`: {why}", pool.name);
            return invalid(errors, path, message);
        }
    }
}

fn read_patch(file: &Path, path: &str, errors: &mut ValidationErrors) -> Option<Patch> {
    let mut text = String::new();
    let read =
        File::open(file).and_then(|file| file.take(PATCH_BYTES_MAX + 1).read_to_string(&mut text));
    let parsed = match read {
        Ok(bytes) if bytes as u64 > PATCH_BYTES_MAX => {
            Err("the file is larger than 1 MiB".to_owned())
        }
        Ok(_) => Patch::parse(&text),
        Err(error) => Err(error.to_string()),
    };
    let named = parsed.map_err(|why| format!("{}: {why}", file.display()));
    named.map_err(|message| invalid(errors, path, message)).ok()
}

/// Rejects a document whose authorities have ended, and warns before their end. The result depends
/// on the clock and is not written anywhere.
pub(crate) fn not_expired(document: &Declared<Cluster>) -> Result<(), Error> {
    let (now, end) = (pki::now(), document.spec.certificates.not_after());
    let day = end.date();
    if end < now {
        return Err(Error::Expired { day: day.to_string() });
    }
    if end < now.saturating_add(WARN_DAYS.days()) {
        let message = format_args!(
            "the certificates of the authorities end on {day}: raise `certificates.years` and run `apply`"
        );
        documents::note(&document.name, message);
    }
    Ok(())
}
