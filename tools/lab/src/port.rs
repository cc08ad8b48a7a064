//! Checks that an address is free, and finds the process that uses it.

use std::fs;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use crate::Error;
use crate::files;
use crate::process::TICK;

/// Longest wait for an address whose process is ending: the kernel no longer shows the owner of a
/// socket before the last thread of that process closes it.
const ENDING: Duration = Duration::from_secs(5);

/// Checks that `service` can listen on `address`.
pub(crate) fn check_free(service: &str, address: SocketAddr) -> Result<(), Error> {
    let end = Instant::now() + ENDING;
    loop {
        match TcpListener::bind(address) {
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == ErrorKind::AddrInUse => {
                let by = holder(address);
                if by.is_some() || Instant::now() >= end {
                    return Err(Error::PortInUse { service: service.to_owned(), address, by });
                }
                documents::check_interrupt()?;
                thread::sleep(TICK);
            }
            Err(error) => {
                return Err(files::cannot("listen on", Path::new(&address.to_string()))(error));
            }
        }
    }
}

/// Returns the name and id of the process that listens on `address`, if the kernel shows them.
fn holder(address: SocketAddr) -> Option<String> {
    let inode = ["/proc/net/tcp", "/proc/net/tcp6"].iter().find_map(|table| {
        let table = fs::read_to_string(table).ok()?;
        table.lines().find_map(|line| listener_inode(line, address))
    })?;
    let socket = format!("socket:[{inode}]");
    for process in fs::read_dir("/proc").ok()?.flatten() {
        let pid = process.file_name().to_string_lossy().into_owned();
        if pid.parse::<u32>().is_err() {
            continue; // `self`, and files that are not processes
        }
        let Ok(descriptors) = fs::read_dir(process.path().join("fd")) else { continue };
        let mut links = descriptors.flatten().filter_map(|entry| fs::read_link(entry.path()).ok());
        if links.any(|target| target.as_os_str() == socket.as_str()) {
            let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            return Some(format!("{} (process {pid})", name.trim()));
        }
    }
    None
}

/// Returns the inode of the socket in a `line` of `/proc/net/tcp`, if the socket listens on `address`
/// or on every address.
fn listener_inode(line: &str, address: SocketAddr) -> Option<String> {
    const LISTEN: &str = "0A";
    let fields: Vec<_> = line.split_ascii_whitespace().collect();
    let (local, state, inode) = (*fields.get(1)?, *fields.get(3)?, *fields.get(9)?);
    let (host, port) = local.split_once(':')?;
    let IpAddr::V4(ip) = address.ip() else { return None };
    let exact = format!("{:08X}", u32::from_le_bytes(ip.octets()));
    let is_same_host = host == exact || host.bytes().all(|byte| byte == b'0');
    let port = u16::from_str_radix(port, 16).ok()?;
    (state == LISTEN && is_same_host && port == address.port()).then(|| inode.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    type Test = Result<(), Box<dyn std::error::Error>>;

    #[test]
    fn an_address_in_use_is_reported_with_the_process_that_uses_it() -> Test {
        let listener = TcpListener::bind("127.71.9.1:0")?;
        let address = listener.local_addr()?;
        let Err(Error::PortInUse { by, .. }) = check_free("forge", address) else {
            return Err("the address is in use".into());
        };
        let by = by.ok_or("the kernel shows the process")?;
        assert!(by.contains(&format!("(process {})", std::process::id())), "{by}");

        drop(listener);
        check_free("forge", address)?;
        Ok(())
    }
}
