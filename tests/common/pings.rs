//! Pings between containers: whether one comes back, and how many of a series are lost.

use std::io::Read;
use std::net::IpAddr;
use std::process::{Child, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::world::Container;

/// Whether a ping is answered.
pub fn reaches(from: &Container, to: IpAddr) -> bool {
    let mut command = from.command("ping");
    command.args(["-c", "1", "-W", "1", &to.to_string()]);
    command.stdout(Stdio::null()).status().unwrap().success()
}

/// A continuous ping, to find gaps.
pub struct Pings(Child);

impl Pings {
    /// Between two pings.
    const INTERVAL: Duration = Duration::from_millis(20);

    /// The maximum number of pings sent in that time, with a few as tolerance.
    pub fn in_the_time(time: Duration) -> u32 {
        const FEW: u32 = 5;
        time.div_duration_f64(Self::INTERVAL) as u32 + FEW
    }

    pub fn start(from: &Container, to: IpAddr) -> Self {
        let mut command = from.command("ping");
        let interval = Self::INTERVAL.as_secs_f64().to_string();
        command.args(["-i", &interval, "-W", "1", &to.to_string()]);
        Self(command.stdout(Stdio::piped()).spawn().unwrap())
    }

    /// The numbers of requests sent and of replies received.
    pub fn stop(mut self) -> (u32, u32) {
        let pid = Pid::from_child(&self.0);
        kill_process(pid, Signal::INT).unwrap();
        let mut text = String::new();
        self.0
            .stdout
            .take()
            .unwrap()
            .read_to_string(&mut text)
            .unwrap();
        self.0.wait().unwrap();
        let line = text.lines().find(|line| line.contains("transmitted"));
        let line = line.unwrap_or_else(|| panic!("{text}"));
        let number = |part: &str| part.split_whitespace().next()?.parse().ok();
        let mut numbers = line.split(',').map_while(number);
        (numbers.next().unwrap(), numbers.next().unwrap())
    }
}
