//! No call without an end: every wait has a limit, and nothing is read without one.
//!
//! `src/docs/errors.md` has the table of the limits.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::fs::{CWD, FileType, FlockOperation, Mode, mknodat};
use serde_json::{Value, json};

use crate::plugins::{call_alone, call_as, folder, in_a_minute, script};
use common::{Call, HOST_END, PluginOutput, STORES, World, call, podnet, with};

/// The longest limit, of an ADD that fails and undoes: twice a delegate's time.
const LONGEST: Duration = Duration::from_secs(130);

const LOCKS: &str = "/run/pausenet/lock";

fn held(path: &Path) -> File {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let file = File::create(path).unwrap();
    rustix::fs::flock(&file, FlockOperation::LockExclusive).unwrap();
    file
}

fn fifo(path: &Path) {
    mknodat(CWD, path, FileType::Fifo, Mode::from(0o600), 0).unwrap();
}

/// The error, with all of these words.
#[track_caller]
fn refused(answer: &PluginOutput, code: u32, words: &[&str]) {
    let error = answer.err_code(code);
    let text = format!("{} {}", error["msg"], error["details"]);
    for word in words {
        assert!(text.contains(word), "no {word:?} in {text}");
    }
}

/// Each of these waits ends at its limit. They run side by side, because the limits are long.
#[test]
fn every_wait_ends_in_code_11_that_names_what_was_waited_for() {
    let world = World::new();
    let (x, y) = (world.container("x"), world.container("y"));
    let network = |name: &str| with(podnet(), json!({"name": name, "bridge": name}));
    let pid = format!("process {} (", std::process::id());
    let _attachment = held(&Path::new(LOCKS).join(HOST_END));
    let _store = held(&Path::new(STORES).join("held/lock"));
    let plugins = tempfile::tempdir().unwrap();
    let text = format!(
        "echo asking >&2\n[ $CNI_COMMAND = DEL ] || sleep 1000 >{}",
        "/dev/null"
    );
    script(plugins.path(), "slow", &text);
    let delegated = with(network("slow"), json!({"ipam": {"type": "slow"}}));
    let path = plugins.path().as_os_str();

    let start = Instant::now();
    let calls = [
        Call::new("ADD", &podnet()).netns(&x),
        Call::new("DEL", &podnet()).netns(&x),
        call("ADD", &network("held"), &y),
        call("DEL", &network("held"), &y).id("z"),
        call("ADD", &delegated, &y).var("CNI_PATH", path),
        Call::new("STATUS", &delegated).var("CNI_PATH", path),
    ];
    let (answers, unfinished) = std::thread::scope(|scope| {
        let calls = calls.iter().map(|call| scope.spawn(|| call.run()));
        let calls: Vec<_> = calls.collect();
        // A runtime that does not close stdin.
        let mut child = Call::new("ADD", &podnet()).command().spawn().unwrap();
        let _stdin = child.stdin.take();
        let unfinished = PluginOutput(child.wait_with_output().unwrap());
        let answers = calls.into_iter().map(|call| call.join().unwrap());
        (answers.collect::<Vec<_>>(), unfinished)
    });

    assert!(start.elapsed() < LONGEST, "{:?}", start.elapsed());
    let store = format!("{STORES}/held/lock");
    refused(&answers[0], 11, &[HOST_END, &pid, "20s"]);
    refused(&answers[1], 11, &[HOST_END, &pid]);
    refused(&answers[2], 11, &[&store, &pid, "20s"]);
    refused(&answers[3], 11, &[&store, &pid]);
    let words = ["slow (process ", "50s", "killed", "asking"];
    refused(&answers[4], 11, &words);
    refused(&answers[5], 50, &words);
    refused(&unfinished, 11, &["stdin", "20s"]);
}

/// Under the name of another of its plugins, as a copy, and by way of a script.
#[test]
fn a_call_that_leads_back_to_itself_is_refused_at_once() {
    let world = World::new();
    let x = world.container("x");
    let plugins = tempfile::tempdir().unwrap();
    let (own, path) = (folder(), plugins.path());
    symlink(own.join("bridge"), path.join("linked")).unwrap();
    fs::copy(
        fs::canonicalize(own.join("bridge")).unwrap(),
        path.join("ptp"),
    )
    .unwrap();
    for name in ["bridge", "ptp", "loopback"] {
        script(
            path,
            &format!("script-{name}"),
            &format!("exec {}/{name}", own.display()),
        );
    }
    for name in ["linked", "ptp", "script-bridge", "script-ptp"] {
        let config = with(podnet(), json!({"ipam": {"type": name}, "ipMasq": true}));
        let before = world.snapshot().without_bridge("cni0");
        for plugin in ["bridge", "ptp"] {
            for (verb, code) in [("ADD", 7), ("GC", 7), ("STATUS", 50)] {
                let call = call_as(plugin, verb, &config, &x).var("CNI_PATH", path);
                refused(&in_a_minute(&call), code, &["pausenet"]);
            }
            // Whatever it answers, it ends, and at once.
            let start = Instant::now();
            for verb in ["DEL", "CHECK"] {
                let config = with(
                    config.clone(),
                    json!({"prevResult": {"cniVersion": "1.1.0"}}),
                );
                call_as(plugin, verb, &config, &x)
                    .var("CNI_PATH", path)
                    .run();
            }
            assert!(
                start.elapsed() < Duration::from_secs(15),
                "{name}: {:?}",
                start.elapsed()
            );
        }
        // A failed ADD may leave the bridge, which attachments share.
        assert_eq!(world.snapshot().without_bridge("cni0"), before, "{name}");
    }
}

/// The script may give every call another container, and so another lock.
#[test]
fn a_chain_of_calls_for_different_containers_ends() {
    let world = World::new();
    let x = world.container("x");
    let plugins = tempfile::tempdir().unwrap();
    let own = folder();
    let text = format!(
        "CNI_CONTAINERID=x$CNI_CONTAINERID CNI_IFNAME=e$CNI_IFNAME exec {}/bridge",
        own.display()
    );
    script(plugins.path(), "next", &text);
    let config = with(podnet(), json!({"ipam": {"type": "next"}}));
    let add = call_as("bridge", "ADD", &config, &x).var("CNI_PATH", plugins.path());
    refused(&in_a_minute(&add), 7, &["8 calls"]);
}

/// As a plugin that gives addresses, it does not ask another one, whatever `type` says.
#[test]
fn host_local_works_behind_a_script_for_every_verb() {
    let world = World::new();
    let x = world.container("x");
    let plugins = tempfile::tempdir().unwrap();
    let path = plugins.path();
    script(
        path,
        "wrapped",
        &format!("exec {}/host-local", folder().display()),
    );
    let ipam = json!({"type": "wrapped", "subnet": "10.1.0.0/24"});
    let config = with(podnet(), json!({"ipam": ipam}));
    let run = |verb: &str, config: &Value| {
        in_a_minute(&call_as("bridge", verb, config, &x).var("CNI_PATH", path)).ok()
    };
    run("STATUS", &config);
    let result = run("ADD", &config);
    assert_eq!(x.addresses("eth0"), ["10.1.0.2/24"]);
    run(
        "CHECK",
        &with(config.clone(), json!({"prevResult": result})),
    );
    run(
        "GC",
        &with(config.clone(), json!({"cni.dev/valid-attachments": []})),
    );
    assert!(common::allocated("podnet").is_empty());
    run("DEL", &config);
    for verb in ["STATUS", "GC"] {
        let call = call_alone("host-local", verb, &config).var("CNI_PATH", path);
        in_a_minute(&call).ok();
    }
}

/// Where a file should be, there is one that waits for a writer, or that never ends.
#[test]
fn fifos_devices_and_endless_files_are_not_waited_for() {
    let world = World::new();
    let x = world.container("x");
    let pipe = Path::new("/run/pipe");
    fifo(pipe);
    let endless = Path::new("/run/endless");
    File::create(endless).unwrap().set_len(1 << 40).unwrap();

    for file in [pipe, Path::new("/dev/zero"), endless, Path::new("/run")] {
        let ipam = json!({"type": "host-local", "subnet": "10.1.0.0/24", "resolvConf": file});
        let config = with(podnet(), json!({"ipam": ipam}));
        let answer = in_a_minute(&Call::new("ADD", &config).netns(&x));
        refused(&answer, 5, &["resolvConf", file.to_str().unwrap()]);
    }
    let mut add = Call::new("ADD", &podnet()).netns(&x).command();
    add.stdin(Stdio::from(File::open("/dev/zero").unwrap()));
    refused(
        &PluginOutput(add.output().unwrap()),
        6,
        &["stdin", "longer than"],
    );

    // The store: every file that the next ADD touches.
    let store = Path::new(STORES).join("podnet");
    fs::create_dir_all(&store).unwrap();
    fifo(&store.join("10.1.0.2"));
    symlink("/dev/zero", store.join("10.1.0.3")).unwrap();
    File::create(store.join("10.1.0.4"))
        .unwrap()
        .set_len(1 << 40)
        .unwrap();
    fifo(&store.join("last_reserved_ip.0"));
    fifo(&store.join("lock"));
    in_a_minute(&Call::new("ADD", &podnet()).netns(&x)).ok();
    assert_eq!(x.addresses("eth0"), ["10.1.0.5/24"]);
    in_a_minute(&Call::new("STATUS", &podnet())).ok();
    in_a_minute(&Call::new("DEL", &podnet()).netns(&x)).ok();

    // The lock of the attachment.
    fs::create_dir_all(LOCKS).unwrap();
    let lock = Path::new(LOCKS).join(HOST_END);
    fifo(&lock);
    let answer = in_a_minute(&Call::new("ADD", &podnet()).netns(&x));
    refused(&answer, 5, &[HOST_END, "not a regular file"]);
    fs::remove_file(&lock).unwrap();
    symlink("/dev/zero", &lock).unwrap();
    let answer = in_a_minute(&Call::new("ADD", &podnet()).netns(&x));
    refused(&answer, 5, &[HOST_END]);
}

#[test]
fn an_answer_without_an_end_is_cut_off() {
    let world = World::new();
    let x = world.container("x");
    let plugins = tempfile::tempdir().unwrap();
    script(plugins.path(), "endless", "exec cat /dev/zero");
    let config = with(podnet(), json!({"ipam": {"type": "endless"}}));
    let add = Call::new("ADD", &config).netns(&x);
    let add = add.var("CNI_PATH", plugins.path().as_os_str());
    refused(
        &in_a_minute(&add),
        6,
        &["endless", "wrote more than 16777216 bytes"],
    );
    assert!(x.link("eth0").is_none());
}

/// What the kernel says of it ("too many levels of symbolic links") is no help.
#[test]
fn a_lock_that_is_a_symbolic_link_is_called_one() {
    let world = World::new();
    let x = world.container("x");
    let store = Path::new(STORES).join("podnet");
    fs::create_dir_all(&store).unwrap();
    fs::create_dir_all(LOCKS).unwrap();
    for lock in [store.join("lock"), Path::new(LOCKS).join(HOST_END)] {
        symlink("/run/elsewhere", &lock).unwrap();
        let answer = Call::new("ADD", &podnet()).netns(&x).run();
        refused(
            &answer,
            5,
            &[lock.to_str().unwrap(), "it is a symbolic link"],
        );
        fs::remove_file(&lock).unwrap();
    }
    assert!(!Path::new("/run/elsewhere").exists());
}

#[test]
fn an_address_store_whose_lock_is_a_folder_is_named() {
    let world = World::new();
    let x = world.container("x");
    fs::create_dir_all(Path::new(STORES).join("podnet/lock")).unwrap();
    let answer = Call::new("ADD", &podnet()).netns(&x).run();
    refused(
        &answer,
        5,
        &["/var/lib/cni/networks/podnet/lock", "directory"],
    );
}
