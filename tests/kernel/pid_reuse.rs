//! CNI_NETNS is /proc/PID/ns/net, and the process with that number is another by now.
//!
//! The numbers are forced to come again, in a PID namespace of the test's own: by a small pid_max
//! where that is a namespace's own (Linux 6.14), or else by `ns_last_pid`, which always is.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use common::programs;
use common::traffic::{HOST, listen, tcp};
use common::wait::wait_until;
use common::{Call, Container, HOST_END, PluginOutput, World, allocated, ip, podnet, run, with};

/// Numbers up to this one are not given again (the kernel's RESERVED_PIDS).
const RESERVED: u32 = 300;

/// Room for the few processes that live at a time; all other numbers are free.
const PID_MAX: u32 = 360;

/// A PID namespace, whose init runs the commands of the test.
struct Processes {
    outer: Child,
    /// The init's number outside.
    init: u32,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Processes {
    fn new() -> Self {
        let mut outer = Command::new("unshare")
            .args(["--pid", "--fork", "--mount-proc", "--kill-child", "bash"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null()) // unshare does not know what to do when its child is killed
            .spawn()
            .unwrap();
        let mut processes = Self {
            init: 0,
            orders: outer.stdin.take().unwrap(),
            answers: BufReader::new(outer.stdout.take().unwrap()),
            outer,
        };
        assert_eq!(processes.ask("echo $$"), "1");
        let pid = processes.outer.id();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
        processes.init = children.trim().parse().unwrap();
        if pid_max_is_per_namespace() {
            processes.ask(&format!("echo {PID_MAX} > /proc/sys/kernel/pid_max; echo"));
        }
        processes.ask(&format!(
            "echo {RESERVED} > /proc/sys/kernel/ns_last_pid; echo"
        ));
        processes
    }

    /// One line that the init's shell says to a command.
    #[track_caller]
    fn ask(&mut self, command: &str) -> String {
        writeln!(self.orders, "{command}").unwrap();
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }

    /// Starts a pause process in a network namespace of its own, and returns its PID.
    fn anchor(&mut self) -> u32 {
        self.start("unshare --net")
    }

    fn start(&mut self, before: &str) -> u32 {
        let pid = self.ask(&format!(
            "{before} {} >/dev/null & echo $!",
            programs::pause()
        ));
        let pid = pid.parse().unwrap();
        self.wait_for_the_program(pid);
        pid
    }

    /// Until the process has become the anchor: then its namespace is its own.
    fn wait_for_the_program(&mut self, pid: u32) {
        wait_until(&format!("{pid} becomes a pause"), || {
            self.ask(&format!("readlink /proc/{pid}/exe || echo"))
                .ends_with("/pause")
        });
    }

    /// Kills a process, and waits until its number is free.
    fn kill(&mut self, pid: u32) {
        self.ask(&format!("kill -9 {pid}; wait {pid} 2>/dev/null; echo"));
    }

    /// Starts such a process with `before` as prefix, again and again until it has this PID.
    fn start_as(&mut self, pid: u32, before: &str) {
        let last = pid - 1;
        let start = format!("{before} {} >/dev/null & n=$!", programs::pause());
        let loop_until = if pid_max_is_per_namespace() {
            format!("until {start}; [ $n = {pid} ]; do kill -9 $n; wait $n 2>/dev/null; done")
        } else {
            format!("echo {last} >/proc/sys/kernel/ns_last_pid; {start}")
        };
        assert_eq!(self.ask(&format!("{loop_until}; echo $n")), pid.to_string());
        self.wait_for_the_program(pid);
    }

    /// A call of the plugin by a runtime that sees these processes.
    fn run(&self, call: &Call) -> PluginOutput {
        let mut command = Command::new("nsenter");
        command.arg(format!("--target={}", self.init));
        command.args(["--pid", "--mount", "--"]);
        call.run_as(in_front_of(command, &call.command()))
    }

    /// The namespace of a process, seen from outside.
    fn view(&self, pid: u32) -> Container {
        // By way of the namespace's own /proc.
        let path = format!("/proc/{}/root/proc/{pid}/ns/net", self.init);
        Container { path: path.into() }
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        let init = Pid::from_raw(self.init as i32).unwrap();
        let _ = kill_process(init, Signal::KILL);
        let _ = self.outer.wait();
    }
}

/// The command with another in front of it, its environment, and pipes.
fn in_front_of(mut front: Command, command: &Command) -> Command {
    front.arg(command.get_program()).args(command.get_args());
    front.env_clear();
    front.env("PATH", std::env::var_os("PATH").unwrap_or_default());
    for (name, value) in command.get_envs() {
        front.env(name, value.unwrap_or_default());
    }
    front
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    front
}

fn pid_max_is_per_namespace() -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    let mut next = || numbers.next().unwrap().parse::<u32>().unwrap();
    (next(), next()) >= (6, 14)
}

/// Two attachments, the second by the number that the first one's process had.
struct ReusedPid {
    world: World,
    processes: Processes,
    pid: u32,
    /// The first one's result.
    result: Value,
}

/// What becomes of the first one's namespace when its anchor has died.
#[derive(Clone, Copy, PartialEq)]
enum Survivors {
    None,
    /// Somebody still lives in it.
    One,
}

impl ReusedPid {
    /// The first is attached, and its anchor has died.
    fn new(survivors: Survivors) -> Self {
        let world = World::new();
        let mut processes = Processes::new();
        let pid = processes.anchor();
        let mut setup = Self {
            world,
            processes,
            pid,
            result: Value::Null,
        };
        setup.result = setup.call("ADD", "c1").ok();
        if survivors == Survivors::One {
            let joined = format!("nsenter --net=/proc/{pid}/ns/net");
            setup.processes.start(&joined);
        }
        setup.processes.kill(pid);
        if survivors == Survivors::None {
            wait_until("the namespace ends", || {
                setup.world.link(HOST_END).is_none()
            });
        }
        setup
    }

    /// And the second has got its number, and is attached.
    fn reused(survivors: Survivors) -> Self {
        let mut setup = Self::new(survivors);
        setup.processes.start_as(setup.pid, "unshare --net");
        setup.call("ADD", "c2").ok();
        setup
    }

    fn call(&self, verb: &str, id: &str) -> PluginOutput {
        self.call_with(verb, id, podnet())
    }

    fn call_with(&self, verb: &str, id: &str, config: Value) -> PluginOutput {
        let call = Call::new(verb, &config)
            .id(id)
            .var("CNI_NETNS", format!("/proc/{}/ns/net", self.pid));
        self.processes.run(&call)
    }

    fn with_result(&self) -> Value {
        with(podnet(), json!({"prevResult": self.result}))
    }

    /// The container whose process has the PID now.
    fn holder(&self) -> Container {
        self.processes.view(self.pid)
    }
}

#[test]
fn check_names_the_pod_that_a_reused_pid_leads_to() {
    for survivors in [Survivors::None, Survivors::One] {
        let setup = ReusedPid::reused(survivors);
        let error = setup
            .call_with("CHECK", "c1", setup.with_result())
            .err_code(102);
        let said = error["msg"].as_str().unwrap();
        let path = format!("/proc/{}/ns/net leads to another namespace", setup.pid);
        for words in [path.as_str(), "container c2"] {
            assert!(said.contains(words), "{said}");
        }
        let advice = error["details"].as_str().unwrap();
        assert!(advice.contains("given to another process"), "{advice}");
    }
}

#[test]
fn check_hints_at_a_reused_pid_when_its_netns_has_no_attachment() {
    let mut setup = ReusedPid::new(Survivors::One);
    setup.processes.start_as(setup.pid, "unshare --net");
    let error = setup
        .call_with("CHECK", "c1", setup.with_result())
        .err_code(102);
    let said = error["msg"].as_str().unwrap();
    assert!(said.contains("eth0 is gone"), "{said}");
    let advice = error["details"].as_str().unwrap();
    assert!(advice.contains(HOST_END), "{advice}");
    assert!(advice.contains("another namespace"), "{advice}");
}

#[test]
fn del_by_a_reused_pid_removes_only_its_own_attachment() {
    for survivors in [Survivors::None, Survivors::One] {
        for with_result in [true, false] {
            let setup = ReusedPid::reused(survivors);
            let before = setup.holder().state();
            assert_eq!(allocated("podnet"), ["10.1.0.2", "10.1.0.3"]);
            let config = if with_result {
                setup.with_result()
            } else {
                podnet()
            };

            setup.call_with("DEL", "c1", config).ok();

            assert_eq!(setup.holder().state(), before);
            assert_eq!(allocated("podnet"), ["10.1.0.3"]);
            assert!(setup.world.link(HOST_END).is_none());
            let server = listen(HOST, "10.1.0.1:7000");
            let seen = tcp(&server, Some(&setup.holder()), "10.1.0.1:7000");
            assert_eq!(seen.to_string(), "10.1.0.3");
        }
    }
}

/// The second is on another network, with the same addresses; a DEL without prevResult looks for
/// what a plugin before us may have left inside.
#[test]
fn del_by_a_reused_pid_keeps_the_same_address_on_another_network() {
    let mut setup = ReusedPid::new(Survivors::None);
    setup.processes.start_as(setup.pid, "unshare --net");
    let other = with(podnet(), json!({"name": "othernet", "bridge": "cni1"}));
    setup.call_with("ADD", "c2", other).ok();
    let before = setup.holder().state();
    assert_eq!(setup.holder().addresses("eth0"), ["10.1.0.2/24"]);

    setup.call("DEL", "c1").ok();

    assert_eq!(setup.holder().state(), before);
    assert!(allocated("podnet").is_empty());
    assert_eq!(allocated("othernet"), ["10.1.0.2"]);
}

/// The same for a pod that another plugin wired, on a bridge of its own.
#[test]
fn del_by_a_reused_pid_keeps_another_plugin_s_interface_with_the_same_address() {
    let mut setup = ReusedPid::new(Survivors::None);
    setup.processes.start_as(setup.pid, "unshare --net");
    let holder = setup.holder();
    ip("link add br9 up type bridge");
    // The name of a file is what ip takes for a namespace's.
    run(
        "ln",
        ["-s", holder.path.to_str().unwrap(), "/run/netns/holder"],
    );
    ip("link add veth9 master br9 up type veth peer name eth0 netns holder");
    ip("-n holder addr add 10.1.0.2/24 dev eth0");
    let before = holder.state();

    setup.call("DEL", "c1").ok();

    assert_eq!(holder.state(), before);
    assert!(allocated("podnet").is_empty());
}

/// Most numbers come to processes of the host itself.
#[test]
fn a_pid_reused_on_the_host_is_neither_attached_nor_detached() {
    for survivors in [Survivors::None, Survivors::One] {
        let mut setup = ReusedPid::new(survivors);
        setup.processes.start_as(setup.pid, "");
        // One that the container's would be taken for.
        ip("link add eth0 type veth peer name eth0peer");
        ip("addr add 10.1.0.2/32 dev eth0");

        let error = setup
            .call_with("CHECK", "c1", setup.with_result())
            .err_code(102);
        let said = error["msg"].as_str().unwrap();
        assert!(said.contains("the host's own network namespace"), "{said}");
        let error = setup.call("ADD", "c2").err_code(8);
        assert!(
            error["msg"]
                .as_str()
                .unwrap()
                .contains("own network namespace")
        );
        assert_eq!(allocated("podnet"), ["10.1.0.2"]);

        setup.call("DEL", "c1").ok();

        assert_eq!(setup.world.addresses("eth0"), ["10.1.0.2/32"]);
        assert!(allocated("podnet").is_empty());
        assert!(setup.world.link(HOST_END).is_none());
    }
}

#[test]
fn add_names_a_dead_pid_and_del_succeeds_without_it() {
    let setup = ReusedPid::new(Survivors::One);
    let path = format!("/proc/{}/ns/net", setup.pid);
    for (verb, id) in [("ADD", "c2"), ("CHECK", "c1")] {
        let error = setup.call_with(verb, id, setup.with_result()).err_code(8);
        let said = error["msg"].as_str().unwrap();
        assert!(said.contains(&path), "{said}");
    }
    setup.call("DEL", "c1").ok();
    assert!(setup.world.link(HOST_END).is_none());
    assert!(allocated("podnet").is_empty());
}

/// The anchor was restarted: the same container, the same number, another namespace.
#[test]
fn a_container_is_attached_again_by_the_same_pid() {
    let mut setup = ReusedPid::new(Survivors::None);
    setup.processes.start_as(setup.pid, "unshare --net");
    // Without a DEL: the old namespace took the interface along.
    let result = setup.call("ADD", "c1").ok();
    assert_eq!(allocated("podnet").len(), 1);
    let config = with(podnet(), json!({"prevResult": result}));
    setup.call_with("CHECK", "c1", config).ok();

    // While a process lives in the old namespace, it keeps the network, and ADD says so.
    let mut setup = ReusedPid::new(Survivors::One);
    setup.processes.start_as(setup.pid, "unshare --net");
    setup.call("ADD", "c1").err_code(100);
    assert!(setup.holder().link("eth0").is_none());
    setup.call("DEL", "c1").ok();
    setup.call("ADD", "c1").ok();
    assert_eq!(setup.holder().addresses("eth0").len(), 1);
    assert_eq!(allocated("podnet").len(), 1);
}
