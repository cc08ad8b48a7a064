//! The emulator without machines, for clients that only talk to the API.

use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use emulator_hcloud::{Cloud, NoMachines, Pace, Settings};

/// Serves an emulated Hetzner Cloud API on a loopback address until the process is ended.
///
/// Once the API answers, the program prints the endpoint on standard output. Machines do nothing; load balancers
/// forward connections.
#[derive(Parser)]
#[command(version)]
struct Cli {
    /// Address and port of the API; port 0 selects a free port.
    #[arg(long, default_value = "127.72.0.1:0")]
    listen: SocketAddr,
    /// File that holds the state; created when it does not exist.
    #[arg(long)]
    state: PathBuf,
    /// Token with the permission "Read & Write".
    #[arg(long, env = "HCLOUD_TOKEN", hide_env_values = true)]
    token: String,
    /// Token with the permission "Read".
    #[arg(long, env = "HCLOUD_READ_TOKEN", hide_env_values = true)]
    read_token: Option<String>,
    /// First two bytes of every public address.
    #[arg(long, default_value = "127.72", value_parser = network)]
    network: [u8; 2],
    /// Calls that a client may make per hour, which is also the largest burst.
    #[arg(long, default_value_t = 3600)]
    calls_per_hour: u32,
    /// Duration of an action in milliseconds.
    #[arg(long, default_value_t = 10)]
    action_milliseconds: u64,
}

fn network(text: &str) -> Result<[u8; 2], String> {
    let bytes = text.split_once('.').and_then(|(a, b)| Some([a.parse().ok()?, b.parse().ok()?]));
    bytes.filter(|bytes| bytes[0] == 127).ok_or_else(|| {
        "not the first two bytes of a loopback address, for example 127.72".to_owned()
    })
}

#[tokio::main]
async fn main() -> io::Result<()> {
    let cli = Cli::parse();
    let listener = tokio::net::TcpListener::bind(cli.listen).await?;
    let address = listener.local_addr()?;
    let pace = Pace {
        calls_per_hour: cli.calls_per_hour,
        action: Duration::from_millis(cli.action_milliseconds),
        ..Pace::default()
    };
    let settings = Settings {
        network: cli.network,
        token: cli.token,
        read_token: cli.read_token,
        state: cli.state,
        address,
    };
    let cloud = Cloud::open_at(settings, Arc::new(NoMachines), pace)?;
    writeln!(io::stdout(), "http://{address}/v1")?;
    io::stdout().flush()?;
    cloud.serve(listener).await
}
