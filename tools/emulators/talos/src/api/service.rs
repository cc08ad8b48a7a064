//! The calls about the machine itself: version, services, files, events, kubeconfig and `Bootstrap`.

use std::io::Write;
use std::sync::Arc;

use data_encoding::BASE64;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::json;
use talos_api::common::Data;
use talos_api::machine::{
    Event, EventsRequest, FeaturesInfo, FileInfo, Hostname, ListRequest, PlatformInfo, ReadRequest,
    ServiceList, Version, VersionInfo,
};
use tokio_stream::wrappers::BroadcastStream;
use tokio_stream::{StreamExt, once};
use tonic::Status;

use super::Answers;
use crate::config::Configuration;
use crate::kind::Kind;
use crate::machine::Machine;
use crate::pki::Leaf;

/// Folder of etcd's data in Talos: `constants.EtcdDataPath`.
const ETCD_DATA: &str = "/var/lib/etcd";

pub(super) fn version(machine: &Machine) -> Version {
    let version = VersionInfo {
        tag: machine.version.clone(),
        sha: "lab".to_owned(),
        os: "linux".to_owned(),
        arch: if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }.to_owned(),
    };
    Version {
        version: Some(version),
        platform: Some(PlatformInfo { name: "hcloud".to_owned(), mode: "cloud".to_owned() }),
        features: Some(FeaturesInfo { rbac: true }),
    }
}

pub(super) fn hostname(machine: &Machine) -> Hostname {
    Hostname { hostname: machine.hostname() }
}

pub(super) fn services(machine: &Machine) -> ServiceList {
    ServiceList { services: machine.view.services() }
}

/// Starts the first member of etcd. A disk can be bootstrapped once.
pub(super) fn bootstrap(machine: &Machine) -> Result<(), Status> {
    let config = active(machine)?;
    if config.kind == Kind::Worker {
        return Err(Status::unimplemented("bootstrap is only available on control plane nodes"));
    }
    let mut state = machine.run_state();
    if !state.accepts_bootstrap {
        return Err(Status::failed_precondition("bootstrap is not available yet"));
    }
    if state.bootstrap_asked || machine.directory.has_etcd_data() {
        return Err(Status::already_exists("etcd data directory is not empty"));
    }
    state.bootstrap_asked = true;
    drop(state);
    // Talos stops the service and starts it again (`BootstrapEtcd` in services/etcd.go, v1.13.9).
    machine.view.service("etcd", "Finished", None, "Bootstrap requested");
    machine.bootstrap.notify_one();
    Ok(())
}

/// Returns a kubeconfig for an administrator of the cluster, in the archive that Talos sends.
pub(super) fn kubeconfig(machine: &Machine) -> Result<Answers<Data>, Status> {
    let config = active(machine)?;
    if config.kind == Kind::Worker {
        return Err(Status::unimplemented("kubeconfig is only available on control plane nodes"));
    }
    let issued =
        config.cluster.issue(&Leaf::client("admin", &["system:masters"])).map_err(internal)?;
    let name = config.text("/cluster/clusterName").unwrap_or("cluster");
    let (user, encode) = (format!("admin@{name}"), |text: &str| BASE64.encode(text.as_bytes()));
    let kubeconfig = json!({
        "apiVersion": "v1", "kind": "Config",
        "clusters": [{"name": name, "cluster": {
            "server": config.endpoint,
            "certificate-authority-data": encode(&config.accepted("/cluster/acceptedCAs", &config.cluster))}}],
        "users": [{"name": user, "user": {
            "client-certificate-data": encode(&issued.certificate_pem),
            "client-key-data": encode(&issued.key_pem)}}],
        "contexts": [{"name": user, "context": {"cluster": name, "namespace": "default", "user": user}}],
        "current-context": user,
    });
    let bytes = packed("kubeconfig", kubeconfig.to_string().as_bytes()).map_err(internal)?;
    Ok(Box::pin(once(Ok(Data { bytes }))))
}

/// Returns a gzip of one tar entry. Like Talos, it omits the padding and the end of the archive.
fn packed(name: &str, content: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut header = [0_u8; 512];
    let mut put = |at: usize, field: &[u8]| header[at..at + field.len()].copy_from_slice(field);
    put(0, name.as_bytes());
    put(100, b"0000600\0");
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    put(124, format!("{:011o}\0", content.len()).as_bytes());
    put(136, b"00000000000\0");
    put(148, b"        ");
    put(156, b"0");
    put(257, b"ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let mut out = GzEncoder::new(Vec::new(), Compression::default());
    out.write_all(&header)?;
    out.write_all(content)?;
    out.finish()
}

/// Returns one of the files that clients read: the boot id, and the hostname.
pub(super) fn read(machine: &Machine, request: &ReadRequest) -> Result<Answers<Data>, Status> {
    let bytes = match request.path.as_str() {
        "/proc/sys/kernel/random/boot_id" => format!("{}\n", machine.view.boot_id()).into_bytes(),
        "/etc/hostname" => format!("{}\n", machine.hostname()).into_bytes(),
        other => return Err(Status::not_found(format!("open {other}: no such file or directory"))),
    };
    Ok(Box::pin(once(Ok(Data { bytes }))))
}

/// Lists the files in `/var/lib/etcd`, without its subdirectories. The directory exists once its volume is
/// mounted, which is when etcd no longer waits. As in Talos, the directory itself is the first item
/// (`pkg/archiver/walker.go`, v1.13.9).
pub(super) fn list(machine: &Machine, request: &ListRequest) -> Result<Answers<FileInfo>, Status> {
    let root = request.root.trim_end_matches('/');
    let mounted = !matches!(machine.view.state("etcd"), None | Some("Starting" | "Waiting"));
    if root != ETCD_DATA || !mounted {
        return Err(Status::unknown(format!("lstat {root}: no such file or directory")));
    }
    let file = |name: String, relative_name: String, is_dir| FileInfo {
        name,
        relative_name,
        is_dir,
        ..FileInfo::default()
    };
    let entries = std::fs::read_dir(machine.directory.at("etcd")).into_iter().flatten().flatten();
    let entries = entries.map(|entry| {
        let name = entry.file_name().to_string_lossy().into_owned();
        file(format!("{root}/{name}"), name, entry.path().is_dir())
    });
    let files = std::iter::once(file(root.to_owned(), ".".to_owned(), true)).chain(entries);
    Ok(Box::pin(tokio_stream::iter(files.map(Ok).collect::<Vec<_>>())))
}

/// Streams the past events that the caller asks for, and then the live events. The caller may name one limit
/// only (`WatchOptionFunc` in `internal/app/machined/pkg/runtime/events.go`, v1.13.9).
pub(super) fn events(machine: &Machine, request: EventsRequest) -> Result<Answers<Event>, Status> {
    let (count, id, seconds) =
        (request.tail_events != 0, !request.tail_id.is_empty(), request.tail_seconds != 0);
    let (option, others) = match (count, id, seconds) {
        (_, true, true) | (true, false, true) => {
            ("WithTailDuration", "WithTailEvents or WithTailID")
        }
        (true, true, false) => ("WithTailID", "WithTailEvents or WithTailDuration"),
        _ => ("", ""),
    };
    if !option.is_empty() {
        return Err(Status::unknown(format!(
            "{option} can't be specified at the same time with {others}"
        )));
    }
    let (past, live) = machine.view.events();
    let actor = request.with_actor_id;
    let wanted = move |event: &Event| actor.is_empty() || event.actor_id == actor;
    let from = if !request.tail_id.is_empty() {
        past.iter().position(|event| event.id == request.tail_id).map_or(0, |last| last + 1)
    } else if request.tail_events < 0 || request.tail_seconds > 0 {
        0
    } else {
        past.len().saturating_sub(usize::try_from(request.tail_events).unwrap_or(0))
    };
    let past: Vec<_> = past.into_iter().skip(from).collect();
    // A client that is too slow misses events, as in Talos.
    let live = BroadcastStream::new(live).filter_map(Result::ok);
    let all = tokio_stream::iter(past).chain(live).filter(wanted);
    Ok(Box::pin(all.map(Ok)))
}

/// Returns the active configuration. A machine in maintenance mode has none.
pub(super) fn active(machine: &Machine) -> Result<Arc<Configuration>, Status> {
    machine.active().ok_or_else(|| Status::failed_precondition("machine type is not set"))
}

pub(super) fn internal(error: impl std::fmt::Display) -> Status {
    Status::internal(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packed_writes_one_tar_entry_with_its_size() {
        let packed = packed("kubeconfig", b"hello").expect("packed");
        let mut out = Vec::new();
        std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(packed.as_slice()), &mut out)
            .expect("unpacked");
        assert_eq!(out.len(), 512 + 5);
        assert_eq!(&out[..10], b"kubeconfig");
        assert_eq!(&out[124..135], b"00000000005");
        assert_eq!(&out[512..], b"hello");
    }
}
