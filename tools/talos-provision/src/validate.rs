//! Validation that types cannot express. Every error is reported before anything is changed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use contract::Projects;
use documents::{Declared, Stream};
use jiff::ToSpan as _;
use serde_json::Value;

use crate::Error;
use crate::config::{self, At, Common, Mistake, Patch, Refusal};
use crate::desired::{Patches, settings, without_unused_flannel};
use crate::pki::{self, Bundle};
use crate::plan::Rule;
use crate::registries;
use crate::spec::{Cluster, Pool, Role, Source, Version};

/// Largest patch, in bytes.
const PATCH_BYTES_MAX: u64 = 1024 * 1024;
/// Most machines of one cluster, because Hetzner allows no more in one network.
const MACHINES_MAX: usize = 99;
/// Most rules of one firewall: "limited to 50 entries per Firewall",
/// <https://docs.hetzner.cloud/reference/cloud#firewall-actions-set-rules>.
const RULES_MAX: usize = 50;
/// Most subnets of one rule, from the same page.
const SUBNETS_MAX: usize = 100;
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
        firewall(&cluster.spec, &mut errors);
        image(&cluster.spec, &mut errors);
        registries(&cluster.spec, &mut errors);
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

/// Rejects mirrors, credentials and TLS that Talos would ignore or refuse.
fn registries(spec: &Cluster, errors: &mut ValidationErrors) {
    for (name, mirror) in &spec.registries.mirrors {
        if mirror.endpoints.is_empty() {
            let path = format!("/spec/registries/mirrors/{}/endpoints", name.as_str());
            invalid(errors, path, "declare at least one endpoint");
        }
    }
    for (endpoint, config) in &spec.registries.config {
        let path = format!("/spec/registries/config/{}", endpoint.as_str());
        if config.auth.is_none() && config.tls.is_none() {
            invalid(errors, path.clone(), "declare `auth` or `tls`");
        }
        if config.auth.as_ref().is_some_and(|auth| !auth.is_complete()) {
            let message = "declare `username` with `password`, or `auth`, or `identityToken`";
            invalid(errors, format!("{path}/auth"), message);
        }
        if config.tls.as_ref().is_some_and(|tls| tls.ca.is_none() && !tls.insecure_skip_verify) {
            invalid(errors, format!("{path}/tls"), "declare `ca` or `insecureSkipVerify`");
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

/// Reports what would close the firewall in front of this program, what the firewall cannot filter, and
/// rules that Hetzner rejects.
fn firewall(spec: &Cluster, errors: &mut ValidationErrors) {
    let firewall = &spec.firewall;
    if firewall.talos.is_empty() {
        let message = "no address may reach Talos's API, port 50000, so no machine could be \
                       configured: declare your own subnet, for example `[198.51.100.7/32]`, or `[anywhere]`";
        invalid(errors, "/spec/firewall/talos", message);
    }
    let path = "/spec/firewall/kubernetes";
    match (&spec.endpoint, &firewall.kubernetes) {
        (Some(_), None) => {
            let message = "with `endpoint`, declare who may reach the Kubernetes API at port 6443 of \
                           the machines: subnets, `[anywhere]`, or `[]` if the endpoint reaches the \
                           machines through the private network";
            invalid(errors, path, message);
        }
        (None, Some(sources)) if !sources.is_empty() && !Source::admit_all(sources) => {
            let message = "without `endpoint` the Kubernetes API is reached at a load balancer, and \
                           Hetzner's firewalls do not filter load balancers, so this list would have \
                           no effect: remove the field, or declare an `endpoint` that leads to the machines";
            invalid(errors, path, message);
        }
        _ => {}
    }
    for (index, rule) in firewall.rules.iter().enumerate() {
        let path = |field: &str| format!("/spec/firewall/rules/{index}/{field}");
        let name = rule.protocol.as_str();
        match (rule.protocol.has_ports(), rule.port) {
            (true, None) => invalid(errors, path("port"), format!("`{name}` requires a port")),
            (false, Some(_)) => invalid(errors, path("port"), format!("`{name}` has no ports")),
            _ => {}
        }
        if rule.from.is_empty() {
            let message = "declare at least one subnet, or `anywhere`";
            invalid(errors, path("from"), message);
        }
    }
    let rules = Rule::inbound(firewall);
    if rules.len() > RULES_MAX {
        let message =
            format!("more than {RULES_MAX} rules are declared, with those of the other fields");
        invalid(errors, "/spec/firewall/rules", message);
    }
    for rule in rules.iter().filter(|rule| rule.sources.len() > SUBNETS_MAX) {
        let port = rule.port.as_deref().unwrap_or_default();
        let message = format!("more than {SUBNETS_MAX} subnets for {} {port}", rule.protocol);
        invalid(errors, "/spec/firewall", message);
    }
}

/// Parses all patches, applies them to a configuration with empty secrets, and checks the result as a node does.
fn read_patches(spec: &Cluster, errors: &mut ValidationErrors) -> Patches {
    let mut patches = Patches::default();
    let mut files = Vec::new();
    let before = errors.len();
    for (index, file) in spec.patches.iter().enumerate() {
        let path = format!("/spec/patches/{index}");
        if let Some(patch) = read_patch(file, &path, errors) {
            files.push(NamedPatch { path, file, patch: patch.clone() });
            patches.all.push(patch);
        }
    }
    let all_are_valid = errors.len() == before;
    for (number, pool) in spec.pools.iter().enumerate() {
        let before = errors.len();
        let mut named = files.clone();
        let mut read = Vec::new();
        for (index, file) in pool.patches.iter().enumerate() {
            let path = format!("/spec/pools/{number}/patches/{index}");
            if let Some(patch) = read_patch(file, &path, errors) {
                named.push(NamedPatch { path, file, patch: patch.clone() });
                read.push(patch);
            }
        }
        if all_are_valid && errors.len() == before {
            for error in check_patches(spec, pool, number, &named) {
                if !errors.contains(&error) {
                    errors.push(error); // several pools may have the same error
                }
            }
        }
        patches.pools.push(read);
    }
    patches
}

/// Patch with the place in the document that names its file.
#[derive(Clone)]
struct NamedPatch<'a> {
    path: String,
    file: &'a Path,
    patch: Patch,
}

impl NamedPatch<'_> {
    /// Returns whether every machine of the cluster gets the patch.
    fn is_of_all(&self) -> bool {
        self.path.starts_with("/spec/patches/")
    }

    fn error(&self, at: At, message: &str) -> (String, String) {
        let At { line, column } = at;
        (self.path.clone(), format!("{}:{line}:{column}: {message}", self.file.display()))
    }
}

fn check_patches(
    spec: &Cluster,
    pool: &Pool,
    number: usize,
    patches: &[NamedPatch<'_>],
) -> ValidationErrors {
    let kubernetes = spec.kubernetes.to_string();
    let bundle = Bundle::default();
    let common = Common {
        cluster: "c",
        endpoint: "https://endpoint:6443",
        kubernetes: kubernetes.trim_start_matches('v'),
        bundle: &bundle,
    };
    let registries = registries::without_secrets(&spec.registries);
    let mut tried = vec![settings(spec, "name", pool.role), registries];
    let of_document = tried.len();
    for named in patches {
        tried.push(named.patch.clone());
        let documents = config::generate(&common, pool.role);
        if let Err(mistake) = config::patched(documents, &tried) {
            let message =
                format!("does not fit the configuration of `{}`: {}", pool.name, mistake.message);
            return vec![named.error(mistake.at, &message)];
        }
    }
    let refusals = |patches: &[Patch]| {
        let documents = config::patched(config::generate(&common, pool.role), patches);
        let mut documents = documents.unwrap_or_default();
        if let Some(root) = documents.first_mut() {
            without_unused_flannel(root, spec);
        }
        let refusals = config::check(&documents, pool.role);
        (documents, refusals)
    };
    // Mistakes of the document itself, for example its version of Kubernetes, are reported at their own fields.
    let (ours, without_patches) = refusals(&tried[..of_document]);
    let (documents, found) = refusals(&tried);
    let place = |document: &Value, path: &str| {
        let places = patches.iter().filter_map(|named| {
            let (steps, at) = named.patch.position(document, path)?;
            Some((steps, named, at))
        });
        places.max_by_key(|(steps, ..)| *steps).map(|(_, named, at)| (named, at))
    };
    let located = |refusal: Refusal| {
        let Refusal { document, path, message } = refusal;
        let document = &documents[document];
        let message = match document["kind"].as_str() {
            Some(kind) => format!("{kind}: {path} {message}"),
            None => format!("{path} {message}"),
        };
        let refused = format!("a node of `{}` would refuse this: {message}", pool.role.as_str());
        match place(document, &path) {
            Some((named, at)) => named.error(at, &refused),
            None => (format!("/spec/pools/{number}"), refused),
        }
    };
    let of_patches = |refusal: &Refusal| !without_patches.contains(refusal);
    let mut errors: ValidationErrors = found.into_iter().filter(of_patches).map(located).collect();
    if !errors.is_empty() {
        return errors;
    }

    // A node is known by its machine's name: the gate of data, the drain of a machine and etcd's members depend on it.
    // Talos v1.13.9 removes the etcd member with the name of a machine that joins: `addMember` in
    // `internal/app/machined/pkg/system/services/etcd.go`. So two machines of one name would remove each other.
    let hostname = |documents: &[Value]| {
        documents.iter().find(|document| document["kind"] == "HostnameConfig").cloned()
    };
    let named = hostname(&ours).filter(|_| hostname(&documents) != hostname(&ours));
    let overridden = "/machine/kubelet/extraArgs/hostname-override";
    let root = documents.first().filter(|root| root.pointer(overridden).is_some());
    for (document, path) in named
        .iter()
        .map(|document| (document, "/hostname"))
        .chain(root.map(|root| (root, overridden)))
    {
        if let Some((named, at)) = place(document, path) {
            let message = "the name of a machine comes from its pool, and two machines of one name would replace each other: remove it from the patch";
            errors.push(named.error(at, &format!("{path}: {message}")));
        }
    }
    let machines: usize = spec.pools.iter().map(|pool| usize::from(pool.count)).sum();
    for Refusal { document, path, message } in config::addresses(&documents) {
        let found = place(&documents[document], &path);
        let is_shared =
            |named: &NamedPatch<'_>| if named.is_of_all() { machines > 1 } else { pool.count > 1 };
        if let Some((named, at)) = found.filter(|(named, _)| is_shared(named)) {
            errors.push(named.error(at, &format!("{path} {message}")));
        }
    }
    errors
}

fn read_patch(file: &Path, path: &str, errors: &mut ValidationErrors) -> Option<Patch> {
    let mut text = String::new();
    let read =
        File::open(file).and_then(|file| file.take(PATCH_BYTES_MAX + 1).read_to_string(&mut text));
    let refused = match read {
        Ok(bytes) if bytes as u64 > PATCH_BYTES_MAX => "the file is larger than 1 MiB".to_owned(),
        Ok(_) => match Patch::parse(&text) {
            Ok(parsed) => return Some(parsed),
            Err(mistakes) => {
                for Mistake { at: At { line, column }, message } in mistakes {
                    invalid(errors, path, format!("{}:{line}:{column}: {message}", file.display()));
                }
                return None;
            }
        },
        Err(error) => error.to_string(),
    };
    invalid(errors, path, format!("{}: {refused}", file.display()));
    None
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
