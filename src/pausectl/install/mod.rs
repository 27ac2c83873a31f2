//! `pausectl install`: the plugin into the folder where a runtime looks for it, under names of
//! the reference's plugins if wanted, and a network beside it; and all of it back.
//!
//! [`pausenet_host::install::managed_folder`] replaces each file atomically.

mod network;
mod report;
mod runtimes;
mod shared;

use std::path::{Path, PathBuf};

use clap::builder::{PossibleValuesParser, TypedValueParser};

use self::network::Network;
use self::report::{Line, Report};
use self::runtimes::Runtime;
use super::options::{RUNTIME_CONF_DIR, own_folder};
use crate::command::{Output, Result, Stop, print, print_json, waiting_blocked, warn};
use crate::doctor::planned::{Forecast, Planned};
use pausenet::cni::Plugin;
use pausenet_host::Error;
use pausenet_host::install::file::{Digest, refusal};
use pausenet_host::install::managed_folder::{
    FolderLock, ManagedFolder, NewFile, PutAction, Record,
};
use pausenet_host::install::{names, try_out};

const DIR: &str = "/opt/cni/bin";

/// What may have to be waited for.
const ANOTHER: &str = "another install or uninstall in this folder";

/// The value of `--as` that stands for all names.
const ALL: &str = "all";

/// The plugins that a value of `--as` stands for.
#[derive(Debug, Clone)]
struct Names(Vec<Plugin>);

fn names_of(value: &str) -> std::result::Result<Names, String> {
    match value {
        ALL => Ok(Names(Plugin::of_the_reference().collect())),
        name => name.parse().map(|plugin| Names(vec![plugin])),
    }
}

const EXAMPLES: &str = "\
Examples:
  pausectl install
  pausectl install --as all --dry-run
  pausectl install --as bridge,host-local,portmap
  pausectl install --conf conf/10-podnet.conflist
  pausectl install --uninstall

Each file is replaced in one step: at any moment, also after a crash, a runtime finds
either the previous plugin or the new one. The previous file is kept as
DIR/.pausenet-replaced/NAME with its owner, mode and times, and --uninstall restores it.
The network's configuration is written last, since it makes the node ready for pods. After
an interruption, run the command again or --uninstall.

containerd calls a plugin `loopback` for every sandbox. If the folder has none, and containerd,
CRI-O or nerdctl is found on this host, pausenet is put in place under that name too.

Before the first change, what `pausectl doctor` will find afterwards is printed on stderr: a
subnet that is in use, a plugin that a network lacks, a key that nothing reads. It stops
nothing; with --dry-run there is time to mend it.

Run it again to upgrade what it installed. A file counts as ours if its SHA-256 is in
DIR/.pausenet-replaced/.record. --uninstall leaves all other files alone, such as a plugin
that a package manager has put in the place of ours, or a pausenet that was there before.

Pods need the plugin that made their interface for DEL: --uninstall when they are gone, or
when the restored plugin can delete them (`bridge` and `host-local` can).";

/// Put the plugin where a container runtime looks for it, or remove it again
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Install {
    /// The folder of plugins; it is made if it does not exist
    #[arg(long, value_name = "DIR", default_value = DIR)]
    dir: PathBuf,

    /// Replace these reference plugins too; the previous files are kept
    #[arg(
        long = "as",
        value_name = "NAMES",
        value_delimiter = ',',
        value_parser = PossibleValuesParser::new(
            [ALL].into_iter().chain(Plugin::of_the_reference().map(Plugin::name))
        ).try_map(|name| names_of(&name))
    )]
    names: Vec<Names>,

    /// Also put in place what these runtimes call beside their networks' plugins. `loopback`, without
    /// which containerd starts no sandbox, is put in place by itself where a runtime is found
    #[arg(
        long = "runtime",
        value_name = "NAMES",
        value_delimiter = ',',
        value_enum
    )]
    runtimes: Vec<Runtime>,

    /// A network configuration to copy into --conf-dir; its name ends in .conflist for a list, in
    /// .conf or .json for a single plugin
    #[arg(long, value_name = "FILE")]
    conf: Option<PathBuf>,

    /// The folder of network configurations [default: /etc/cni/net.d; with --uninstall, every
    /// folder that was installed into]
    #[arg(long, value_name = "DIR")]
    conf_dir: Option<PathBuf>,

    /// The plugin [default: the `pausenet` beside pausectl]
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,

    /// Restore what was there before
    #[arg(long, conflicts_with_all = ["names", "runtimes", "conf", "from"])]
    uninstall: bool,

    /// Print what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
}

/// Installs or uninstalls, and reports it.
///
/// # Errors
/// The first step that failed. What was done before it is reported, and stays.
pub(crate) fn install(options: &Install, output: Output) -> Result<()> {
    let mut report = Report {
        dry_run: options.dry_run,
        expected: None,
        lines: Vec::new(),
        older: Vec::new(),
        shared: Vec::new(),
        kept: Vec::new(),
    };
    let place = ManagedFolder::new(absolute(&options.dir)?);
    if is_same_folder(
        &options.dir,
        options
            .conf_dir
            .as_deref()
            .unwrap_or(Path::new(RUNTIME_CONF_DIR)),
    ) {
        let why = "--dir and --conf-dir are the same folder";
        return Err(Stop::Usage(Error::new(why)));
    }
    let outcome = if options.uninstall {
        uninstall(options, &place, &mut report)
    } else {
        put_files(options, &place, &mut report)
    };
    match (&outcome, output) {
        // Nothing was done, so the error alone is printed.
        (Err(_), _) if report.lines.is_empty() && report.shared.is_empty() => {}
        (_, Output::Json) => print_json(&report.json(&options.dir))?,
        (_, Output::Text) => print(&report.text(&options.dir))?,
    }
    outcome
}

fn put_files(options: &Install, place: &ManagedFolder, report: &mut Report) -> Result<()> {
    let source = match &options.from {
        Some(file) => file.clone(),
        None => own_folder().unwrap_or_default().join("pausenet"),
    };
    let plugin = read_plugin(&source)?;
    let digest = Digest::of(&plugin);
    let network = options.conf.as_deref().map(Network::read).transpose()?;
    let conf_dir = options
        .conf_dir
        .as_deref()
        .unwrap_or(Path::new(RUNTIME_CONF_DIR));
    let conf_dir = absolute(conf_dir)?;

    // Held to the end, so that an --uninstall at the same time does not miss the network.
    holding(place, report.dry_run, |held| {
        let needed = runtimes::needed(&options.runtimes, place, &options.dir);
        let asked = options.names.iter().flat_map(|names| &names.0).copied();
        let asked: Vec<_> = asked.chain(needed).collect();
        let names = names(&asked, place)?;
        let wanted = names.iter().map(|name| NewFile {
            name: name.clone(),
            content: &plugin,
            digest: digest.clone(),
            mode: 0o755,
        });
        let plugins: Vec<_> = wanted.collect();
        let conf_place = ManagedFolder::new(conf_dir.clone());
        // Finds what cannot be done before the first change.
        plan_all(place, &plugins)?;
        if let Some(network) = &network {
            plan_all(&conf_place, &[network.wanted()])?;
            network.warn_of_an_earlier_file(&conf_dir);
        }
        let planned = Planned {
            programs: names
                .iter()
                .map(|name| (name.clone(), place.path(name)))
                .collect(),
            source: source.clone(),
            conf: network.as_ref().map(|network| network.planned(&conf_place)),
        };
        let dir = absolute(&options.dir)?;
        report.foresee(Forecast::of(planned, dir.clone(), conf_dir.clone()));
        put_all(place, &plugins, held, report)?;
        let Some(network) = &network else {
            return Ok(());
        };
        if let Some(held) = held {
            // Before the first file: after a crash, --uninstall must find the folder.
            let mut record = place.record()?;
            if record.conf_dirs.insert(conf_dir.clone()) {
                place.save(&record, held)?;
            }
        }
        holding(&conf_place, report.dry_run, |held| {
            if let Some(held) = held {
                note_user(&conf_place, &network.wanted(), &dir, held)?;
            }
            put_all(&conf_place, &[network.wanted()], held, report)
        })
    })
}

/// Records for which folder of plugins a network is about to be installed, if the file will be ours.
fn note_user(
    place: &ManagedFolder,
    network: &NewFile,
    dir: &Path,
    held: &FolderLock,
) -> Result<()> {
    let mut record = place.record()?;
    let is_another_s = place.plan(network, &record)? == PutAction::Nothing { ours: false };
    if !is_another_s && record.add_user(&network.name, dir) {
        place.save(&record, held)?;
    }
    Ok(())
}

/// Does `work` with the place locked. A dry run locks nothing.
fn holding(
    place: &ManagedFolder,
    dry_run: bool,
    work: impl FnOnce(Option<&FolderLock>) -> Result<()>,
) -> Result<()> {
    if dry_run {
        return work(None);
    }
    let held = waiting_blocked(ANOTHER, || place.hold())?;
    let outcome = work(Some(&held));
    outcome.and(place.leave(held).map_err(Stop::Failed))
}

fn plan_all(place: &ManagedFolder, files: &[NewFile]) -> Result<()> {
    let record = place.record()?;
    for wanted in files {
        place.plan(wanted, &record)?;
    }
    Ok(())
}

/// Puts all files in place, in order. Without a lock it only reports what it would do.
fn put_all(
    place: &ManagedFolder,
    files: &[NewFile],
    held: Option<&FolderLock>,
    report: &mut Report,
) -> Result<()> {
    let mut record = place.record()?;
    let mut like: Option<PathBuf> = None;
    for wanted in files {
        let is_program = wanted.mode & 0o111 != 0;
        let examine = |file: &Path| if is_program { try_out(file) } else { Ok(()) };
        let put = match held {
            Some(held) => place.put(wanted, like.as_deref(), &mut record, held, examine)?,
            None => place.plan(wanted, &record)?,
        };
        if put != (PutAction::Nothing { ours: false }) {
            like = Some(place.path(&wanted.name));
        }
        report.lines.push(Line::put(place, &wanted.name, put));
    }
    Ok(())
}

fn uninstall(options: &Install, place: &ManagedFolder, report: &mut Report) -> Result<()> {
    let held = match report.dry_run {
        true => None,
        false => waiting_blocked(ANOTHER, || place.hold_existing())?,
    };
    let mut conf_dirs = place.record()?.conf_dirs;
    if let Some(dir) = &options.conf_dir {
        conf_dirs.insert(absolute(dir)?);
    }
    let own = absolute(&options.dir)?;
    // Networks first: a runtime must not find a network whose plugin is gone.
    for dir in &conf_dirs {
        let conf_place = ManagedFolder::new(dir.clone());
        let conf_held = match report.dry_run {
            true => None,
            false => waiting_blocked(ANOTHER, || conf_place.hold_existing())?,
        };
        take_all(&conf_place, conf_held, report, |record, name| {
            let others = record.remove_user(name, &own).into_iter();
            let installed = |other: &PathBuf| {
                let record = ManagedFolder::new(other.clone()).record();
                record.is_ok_and(|record| record.conf_dirs.contains(dir))
            };
            others.filter(installed).collect()
        })?;
    }
    take_all(place, held, report, |_, _| Vec::new())?;
    if !report.dry_run
        && let Err(err) = shared::remove(&conf_dirs, report)
    {
        warn(&err.context("what attachments shared in the kernel may be left"));
    }
    Ok(())
}

/// Removes all files of ours, but for those that installs in other folders use too. In a dry run it only
/// reports them.
fn take_all(
    place: &ManagedFolder,
    held: Option<FolderLock>,
    report: &mut Report,
    other_users: impl Fn(&mut Record, &str) -> Vec<PathBuf>,
) -> Result<()> {
    if held.is_none() && !report.dry_run {
        // Nothing was installed.
        return Ok(());
    }
    let mut record = place.record()?;
    let mut stays = false;
    for name in place.names(&record)? {
        let others = other_users(&mut record, &name);
        if !others.is_empty() {
            stays = true;
            report.lines.push(Line::used(place, &name, &others));
            continue;
        }
        let take = match &held {
            Some(held) => place.take(&name, &record, held)?,
            None => place.plan_take(&name, &record)?,
        };
        report.lines.extend(Line::take(place, &name, take));
    }
    report.older.extend(place.older());
    match held {
        Some(held) if stays => Ok(place.save(&record, &held)?),
        Some(held) => Ok(place.forget(held)?),
        None => Ok(()),
    }
}

fn read_plugin(source: &Path) -> Result<Vec<u8>, Error> {
    std::fs::read(source).map_err(|err| {
        let err = refusal("cannot read the plugin", source, &err);
        err.hint("name it with --from FILE; by default it is beside pausectl")
    })
}

fn is_same_folder(one: &Path, other: &Path) -> bool {
    let canonical = |path: &Path| path.canonicalize().or_else(|_| std::path::absolute(path));
    canonical(one).is_ok_and(|one| canonical(other).is_ok_and(|other| one == other))
}

/// So that the record names the same folder from any working directory.
fn absolute(path: &Path) -> Result<PathBuf, Error> {
    std::path::absolute(path).map_err(|err| refusal("cannot find", path, &err))
}
