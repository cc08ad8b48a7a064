//! Generates the messages, the clients and the servers from the files in `proto`. `protox` compiles
//! these files in this process, so that no machine needs `protoc`.

use std::error::Error;
use std::path::PathBuf;
use std::{env, fs};

use prost::Message as _;

const FILES: [&str; 7] = [
    "cluster/cluster.proto",
    "common/common.proto",
    "cosi/state.proto",
    "machine/machine.proto",
    "resource/config/config.proto",
    "resource/definitions/enums/enums.proto",
    "resource/definitions/runtime/runtime.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let descriptions = protox::compile(FILES, ["proto"])?;
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);
    fs::write(out.join("descriptions.bin"), descriptions.encode_to_vec())?;
    tonic_prost_build::configure()
        .build_transport(false)
        .server_mod_attribute(".", "#[cfg(feature = \"server\")]")
        .compile_fds(descriptions)?;
    Ok(())
}
