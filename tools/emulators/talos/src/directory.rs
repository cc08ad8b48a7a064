//! The directory of a machine, which stands for its disk.

use std::fs;
use std::io::Write;
use std::net::Ipv4Addr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::error::{Attempt, Error};

/// The directory of one machine.
#[derive(Clone, Debug)]
pub(crate) struct MachineDirectory(pub(crate) PathBuf);

/// The file `machine.json`, which identifies the machine that a disk belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Label {
    pub(crate) id: u64,
    pub(crate) ipv4: Ipv4Addr,
    /// Third octet of the machine's part of the pod network, once it has a part.
    pub(crate) pods: Option<u8>,
}

impl MachineDirectory {
    pub(crate) fn at(&self, path: &str) -> PathBuf {
        self.0.join(path)
    }

    /// Returns a path as an argument of a program.
    pub(crate) fn text(&self, path: &str) -> String {
        self.at(path).display().to_string()
    }

    /// Writes a file that only its owner may read. A reader sees the whole file or no file.
    pub(crate) fn write(&self, path: &str, content: impl AsRef<[u8]>) -> Result<(), Error> {
        let target = self.at(path);
        let what = || format!("cannot write {}", target.display());
        if let Some(directory) = target.parent() {
            fs::create_dir_all(directory).attempt(what())?;
        }
        let new = target.with_extension("new");
        let _ = fs::remove_file(&new);
        let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new);
        file.and_then(|mut file| file.write_all(content.as_ref())).attempt(what())?;
        fs::rename(&new, &target).attempt(what())
    }

    pub(crate) fn write_json(&self, path: &str, content: &Value) -> Result<(), Error> {
        self.write(path, content.to_string())
    }

    pub(crate) fn remove(&self, path: &str) {
        let target = self.at(path);
        let _ = if target.is_dir() { fs::remove_dir_all(target) } else { fs::remove_file(target) };
    }

    /// Whether the disk holds data of etcd, which makes a second bootstrap impossible.
    pub(crate) fn has_etcd_data(&self) -> bool {
        self.at("etcd/member").is_dir()
    }

    pub(crate) fn label(&self) -> Option<Label> {
        let text = fs::read(self.at("machine.json")).ok()?;
        let label: Value = serde_json::from_slice(&text).ok()?;
        Some(Label {
            id: label["id"].as_u64()?,
            ipv4: label["ipv4"].as_str()?.parse().ok()?,
            pods: label["pods"].as_u64().and_then(|number| u8::try_from(number).ok()),
        })
    }

    pub(crate) fn set_label(&self, label: &Label) -> Result<(), Error> {
        let Label { id, ipv4, pods } = label;
        self.write_json("machine.json", &json!({"id": id, "ipv4": ipv4, "pods": pods}))
    }
}

/// Returns the directory of every machine below `directory`.
pub(crate) fn all(directory: &Path) -> Vec<MachineDirectory> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.path())
        .filter(|path| path.join("machine.json").is_file())
        .map(MachineDirectory)
        .collect()
}
