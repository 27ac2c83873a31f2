//! The machine and the versions that the results belong to.

use std::fmt;
use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::Result;

#[derive(Debug, Serialize)]
pub(crate) struct Machine {
    processor: String,
    cores: usize,
    memory_gb: u64,
    kernel: String,
    pausenet: String,
    reference: String,
    /// The commit of the build before.
    pub(crate) before: Option<String>,
    nft: String,
    iptables: String,
    iperf3: String,
    /// The load average over a minute at the start.
    load: String,
    extent: &'static str,
}

impl Machine {
    /// Reads the properties of the machine. The script passes `commit`, `reference` and `before`.
    pub(crate) fn read(
        commit: &str,
        reference: &str,
        before: Option<&str>,
        extent: &'static str,
    ) -> Self {
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
            before: before.map(str::to_owned),
            nft: version("nft"),
            iptables: version("iptables"),
            iperf3: version("iperf3"),
            load: load.split(' ').next().unwrap_or_default().to_owned(),
            extent,
        }
    }
}

/// How long processors must be idle: a few of the ticks in which the kernel counts their time.
const MOMENT: Duration = Duration::from_millis(60);

/// Waits until the processors are nearly idle, but no longer than `limit`. The kernel works on new links
/// for seconds after the call that made them returned: their multicast goes to every port of a bridge,
/// and into every namespace behind one.
pub(crate) fn wait_idle(limit: Duration) -> Result<()> {
    let deadline = Instant::now() + limit;
    let mut before = Ticks::read()?;
    while Instant::now() < deadline {
        std::thread::sleep(MOMENT);
        let now = Ticks::read()?;
        if now.busy - before.busy <= (now.all - before.all) / 10 {
            break;
        }
        before = now;
    }
    Ok(())
}

/// Processor time since boot, in ticks.
struct Ticks {
    busy: u64,
    all: u64,
}

impl Ticks {
    fn read() -> Result<Self> {
        Self::of(&fs::read_to_string("/proc/stat")?)
    }

    /// The first line of /proc/stat (proc_stat(5)): user, nice, system, idle, iowait, and on.
    fn of(stat: &str) -> Result<Self> {
        let line = stat.lines().next().unwrap_or_default();
        let ticks = line.split_whitespace().skip(1).map(str::parse::<u64>);
        let ticks: Vec<u64> = ticks.collect::<std::result::Result<_, _>>()?;
        let all = ticks.iter().take(8).sum(); // the time of guests is part of user
        let idle: u64 = ticks.iter().skip(3).take(2).sum();
        Ok(Self {
            busy: all - idle,
            all,
        })
    }
}

/// The first line of a program's `--version`.
fn version(program: &str) -> String {
    let output = Command::new(program).arg("--version").output();
    let text = output.map(|output| output.stdout).unwrap_or_default();
    String::from_utf8_lossy(&text)
        .lines()
        .next()
        .unwrap_or("not found")
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn iowait_counts_as_idle_and_guest_time_counts_once() {
        let ticks = Ticks::of("cpu  10 1 5 80 4 0 2 1 7 0\ncpu0 1 1 1 1 1 1 1 1 1 1\n").unwrap();
        assert_eq!((ticks.busy, ticks.all), (19, 103));
        assert!(Ticks::of("cpu  what\n").is_err());
    }
}
