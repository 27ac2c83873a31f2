//! What the figures were measured on, and with which versions.

use std::fmt;
use std::fs;
use std::process::Command;

use serde::Serialize;

#[derive(Debug, Serialize)]
pub struct Machine {
    pub processor: String,
    pub cores: usize,
    pub memory_gb: u64,
    pub kernel: String,
    pub pausenet: String,
    pub reference: String,
    pub nft: String,
    pub iptables: String,
    pub iperf3: String,
    /// How many processes wanted to run when it began, over a minute.
    pub load: String,
    pub extent: &'static str,
}

impl Machine {
    /// Looks at the machine. `commit` and `reference` are told by the script that knows them.
    pub fn read(commit: &str, reference: &str, extent: &'static str) -> Self {
        let field = |file: &str, key: &str| {
            let text = fs::read_to_string(file).unwrap_or_default();
            let line = text
                .lines()
                .find(|line| line.starts_with(key))
                .unwrap_or_default();
            line.split_once(':')
                .map_or("", |(_, value)| value.trim())
                .to_owned()
        };
        let memory = field("/proc/meminfo", "MemTotal");
        let memory = memory
            .split(' ')
            .next()
            .and_then(|kilobytes| kilobytes.parse::<u64>().ok());
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
        Self {
            processor: field("/proc/cpuinfo", "model name"),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            memory_gb: memory.unwrap_or(0) / 1_000_000,
            kernel: kernel.trim().to_owned(),
            pausenet: format!("{} ({commit})", env!("CARGO_PKG_VERSION")),
            reference: reference.to_owned(),
            nft: version("nft"),
            iptables: version("iptables"),
            iperf3: version("iperf3"),
            load: load.split(' ').next().unwrap_or_default().to_owned(),
            extent,
        }
    }
}

/// The first line of what a program says of its version.
fn version(program: &str) -> String {
    let output = Command::new(program).arg("--version").output();
    let text = output.map(|output| output.stdout).unwrap_or_default();
    String::from_utf8_lossy(&text)
        .lines()
        .next()
        .unwrap_or("not there")
        .to_owned()
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{}, {} cores, {} GB, Linux {}; load at the start {}; {} run",
            self.processor, self.cores, self.memory_gb, self.kernel, self.load, self.extent
        )?;
        writeln!(
            f,
            "pausenet {}; reference {}",
            self.pausenet, self.reference
        )?;
        writeln!(f, "{}; {}; {}", self.nft, self.iptables, self.iperf3)
    }
}
