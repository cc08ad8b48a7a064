//! Machines with a disk, which run the user data of their server as cloud-init does.
//!
//! A server that was created from a system of the vendor runs its user data once, at its first boot, if the
//! user data begins with `#!` (<https://docs.cloud-init.io/en/24.4/explanation/format.html>). The program runs
//! for real, in a mount namespace whose disk is a file. This needs root or user namespaces, `unshare` and Python.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::factory;
use crate::machines::{Contents, Machines, Server};

/// Bytes of a gigabyte, as the vendor counts disks.
const GIGABYTE: u64 = 1_000_000_000;

/// Machines that run user data. Machines with Talos on their disk are those of `inner`.
pub struct StockMachines {
    directory: PathBuf,
    inner: Arc<dyn Machines>,
    running: Mutex<BTreeMap<u64, Child>>,
}

impl StockMachines {
    /// Creates machines whose disks are files below `directory`.
    #[must_use]
    pub fn new(directory: PathBuf, inner: Arc<dyn Machines>) -> Self {
        Self { directory, inner, running: Mutex::default() }
    }

    fn folder(&self, id: u64) -> PathBuf {
        self.directory.join(id.to_string())
    }

    fn running(&self) -> MutexGuard<'_, BTreeMap<u64, Child>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts the user data of a server that boots for the first time.
    fn boot(&self, server: &Server) -> io::Result<Option<Child>> {
        let folder = self.folder(server.id);
        if folder.join("disk").exists() {
            return Ok(None); // cloud-init runs user data only once, and the disk may hold anything
        }
        fs::create_dir_all(&folder)?;
        fs::File::create(folder.join("disk"))?.set_len(u64::from(server.disk) * GIGABYTE)?;
        let Some(program) = server.user_data.as_ref().filter(|text| text.starts_with("#!")) else {
            return Ok(None);
        };
        fs::write(folder.join("user-data"), program)?;
        fs::write(folder.join("sitecustomize.py"), include_str!("sitecustomize.py"))?;
        let log = fs::File::create(folder.join("console"))?;
        let mut command = Command::new("unshare");
        if fs::metadata("/proc/self")?.uid() != 0 {
            // Other users may mount in a user namespace only.
            command.args(["--user", "--map-root-user"]);
        }
        command.args(["--mount", "--pid", "--fork", "--kill-child", "sh", "-c"]);
        command.arg(include_str!("boot.sh")).arg("boot").arg(&folder).arg(server.ipv4.to_string());
        // The pipe closes when this process ends, in any way, and then the script ends the program.
        command.stdin(Stdio::piped()).stdout(log.try_clone()?).stderr(log);
        command.spawn().map(Some)
    }

    fn stop(&self, id: u64) {
        if let Some(mut child) = self.running().remove(&id) {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Machines for StockMachines {
    fn power_on(&self, server: &Server) {
        match &server.image_contents {
            Contents::Talos { .. } => self.inner.power_on(server),
            Contents::Stock => match self.boot(server) {
                Ok(Some(child)) => {
                    self.running().insert(server.id, child);
                }
                Ok(None) => {}
                // The action fails, as for a host without memory.
                Err(error) => panic!("the machine cannot start: {error}"),
            },
            Contents::Unknown => {}
        }
    }

    fn power_off(&self, id: u64) {
        self.stop(id);
        self.inner.power_off(id);
    }

    fn delete(&self, id: u64) {
        self.stop(id);
        let _ = fs::remove_dir_all(self.folder(id));
        self.inner.delete(id);
    }

    fn contents(&self, id: u64) -> Option<Contents> {
        let disk = self.folder(id).join("disk");
        disk.exists().then(|| read(&disk)).or_else(|| self.inner.contents(id))
    }
}

/// Returns what a disk holds. A disk that was never written still has its system, which the file of the
/// emulator does not contain.
fn read(disk: &Path) -> Contents {
    let is_empty = fs::metadata(disk).is_ok_and(|file| file.blocks() == 0);
    if is_empty { Contents::Stock } else { factory::read(disk).unwrap_or_default() }
}

impl Drop for StockMachines {
    fn drop(&mut self) {
        let ids: Vec<u64> = self.running().keys().copied().collect();
        for id in ids {
            self.stop(id);
        }
    }
}
