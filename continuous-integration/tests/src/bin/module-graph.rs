//! Prints the module graph of a crate, for example `cargo run --bin module-graph tools/flux-seed/src`.

use std::io::{self, Write as _};
use std::path::Path;

use repository_tests::modules;

fn main() -> io::Result<()> {
    for src in std::env::args().skip(1) {
        let graph = modules::graph(Path::new(&src))?;
        let mut out = io::stdout().lock();
        writeln!(out, "%% {src}\n{}", modules::mermaid(&graph))?;
        for cycle in modules::cycles(&graph) {
            let modules: Vec<_> = cycle.into_iter().collect();
            writeln!(out, "%% cycle: {}", modules.join(", "))?;
        }
    }
    Ok(())
}
