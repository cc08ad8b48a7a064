//! The machine that a program is for.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use crate::spec::System;

/// Length of the beginning of a program that names its machine or its interpreter, in bytes. Linux reads as many
/// (`BINPRM_BUF_SIZE` of <https://github.com/torvalds/linux/blob/v6.12/include/uapi/linux/binfmts.h>).
const HEAD_BYTES: u64 = 256;

/// Returns the system of an ELF program, or of the interpreter of a script; `None` for other files and systems.
pub(super) fn system_of(path: &Path) -> Option<System> {
    let program = head(path)?;
    let Some(line) = program.strip_prefix(b"#!") else { return elf(&program) };
    let line = str::from_utf8(line.split(|byte| *byte == b'\n').next()?).ok()?;
    let interpreter = Path::new(line.split_whitespace().next()?);
    // An interpreter outside the store is not a file of this machine, but of the image.
    if interpreter.starts_with("/nix/store") { elf(&head(interpreter)?) } else { None }
}

fn head(path: &Path) -> Option<Vec<u8>> {
    let mut head = Vec::new();
    File::open(path).ok()?.take(HEAD_BYTES).read_to_end(&mut head).ok()?;
    Some(head)
}

/// Returns the system that the header of an ELF file names.
/// <https://refspecs.linuxfoundation.org/elf/gabi4+/ch4.eheader.html>
fn elf(head: &[u8]) -> Option<System> {
    let is_elf = head.starts_with(b"\x7fELF");
    let machine = u16::from_le_bytes(head.get(18..20)?.try_into().ok()?); // both systems are little-endian
    [System::Amd64, System::Arm64].into_iter().find(|system| is_elf && system.elf() == machine)
}

#[cfg(test)]
mod tests {
    use std::error::Error;
    use std::fs;

    use super::*;

    #[test]
    fn a_program_has_the_system_of_its_header_and_a_script_that_of_its_interpreter()
    -> Result<(), Box<dyn Error>> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("program");
        let elf = |machine: u16| {
            let mut header = b"\x7fELF\x02\x01\x01".to_vec();
            header.resize(18, 0);
            header.extend(machine.to_le_bytes());
            header
        };
        for (content, system) in [
            (elf(62), Some(System::Amd64)),
            (elf(183), Some(System::Arm64)),
            (elf(243), None), // RISC-V, for which no image is declared
            (elf(62)[..19].to_vec(), None),
            (b"MZ".to_vec(), None),
            (Vec::new(), None),
            (b"#!".to_vec(), None),
            (b"#!/bin/sh\n".to_vec(), None),
            (b"#! /nix/store/absent/bin/sh -e\n".to_vec(), None),
        ] {
            fs::write(&path, &content)?;
            assert_eq!(system_of(&path), system, "{content:?}");
        }
        let own = std::env::current_exe()?;
        let system = if cfg!(target_arch = "aarch64") { System::Arm64 } else { System::Amd64 };
        assert_eq!(system_of(&own), Some(system));
        Ok(())
    }
}
