//! Control groups, version 1 and 2: one per attempt, made before it and removed after it.

mod limit;

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};

pub(crate) use self::limit::NotThere;
use crate::gate::{self, Gate};
use crate::spec::{Limits, Resources, Security};

/// How often a group is tried to be removed while the kernel still counts its dead.
const REMOVE_TRIES_MAX: u32 = 100;
/// The pause between these tries.
const REMOVE_PAUSE: Duration = Duration::from_millis(2);

/// The hierarchies of this machine that can be written.
#[derive(Clone, Debug)]
pub(crate) enum Hierarchy {
    /// One tree per controller: the dcbuild folders of memory, pids and cpu.
    V1 {
        memory: Option<PathBuf>,
        pids: Option<PathBuf>,
        cpu: Option<PathBuf>,
        /// Made when a step asks for it.
        cpuset: Option<PathBuf>,
        /// The group of all steps together that may open the usual devices alone.
        devices: Option<PathBuf>,
        joined: Joined,
    },
    /// One tree: the dcbuild folder.
    V2 { group: PathBuf, gate: Option<Gate> },
    /// None: steps run without limits.
    Absent,
}

/// Which groups of version 1 a step joins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Joined {
    /// Those that limit it.
    Limiting,
    /// All, since those above them limit it.
    All,
}

/// The groups that a cell joins.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct CgroupPaths {
    own: Vec<PathBuf>,
    /// One that it shares with others.
    devices: Option<PathBuf>,
}

/// Whether a process is in its groups yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Groups {
    Joined,
    ToJoin,
}

impl CgroupPaths {
    /// Moves this process, which has one thread, into the groups.
    pub(crate) fn join(&self) -> io::Result<()> {
        self.own.iter().chain(&self.devices).try_for_each(|group| {
            // A thread that moves itself waits for nothing; moving a process waits milliseconds for the whole machine.
            match fs::OpenOptions::new().write(true).open(group.join("tasks")) {
                Ok(mut tasks) => tasks.write_all(b"0"),
                // Version 2.
                Err(_) => fs::write(group.join("cgroup.procs"), "0"),
            }
        })
    }

    /// Opens the one group of version 2.
    pub(crate) fn unified(&self) -> Option<fs::File> {
        let [group] = self.own.as_slice() else { return None };
        group.join("cgroup.controllers").exists().then(|| fs::File::open(group).ok())?
    }
}

/// What the kernel counted in a group.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) oom_kills: u64,
    pub(crate) pids_refused: u64,
}

impl Hierarchy {
    /// Finds what can be written below `root` and makes the folder `name` there.
    pub(crate) fn find(root: &Path, name: &str) -> Hierarchy {
        if root.join("cgroup.controllers").exists() {
            let group = root.join(name);
            // Delegation may be partial; a limit that cannot be set is reported when a step asks for it.
            let _refused = fs::write(root.join("cgroup.subtree_control"), "+memory +pids +cpu");
            if make_usable(&group).is_err() {
                return Hierarchy::Absent;
            }
            delegate(&group);
            return Hierarchy::V2 { group, gate: Gate::load().ok() };
        }
        let controller = |folder: &str| {
            let mounted = root.join(folder).join("cgroup.procs").exists();
            let group = root.join(folder).join(name);
            (mounted && make_usable(&group).is_ok()).then_some(group)
        };
        let devices = controller("devices").filter(|group| gate::close_group(group).is_ok());
        let (memory, pids, cpu) = (controller("memory"), controller("pids"), controller("cpu"));
        if memory.is_none() && pids.is_none() && cpu.is_none() {
            return Hierarchy::Absent;
        }
        let cpuset = cpuset(root, Path::new(name));
        Hierarchy::V1 { memory, pids, cpu, cpuset, devices, joined: Joined::Limiting }
    }

    /// Makes the folder `name` below the group that a build names, which is made where it is not there yet.
    pub(crate) fn beneath(root: &Path, parent: &Parent, name: &str) -> io::Result<Hierarchy> {
        if root.join("cgroup.controllers").exists() {
            let mut group = root.to_owned();
            for part in Path::new(&parent.0).join(name).components() {
                delegate(&group);
                group.push(part);
                make_usable(&group)?;
            }
            delegate(&group);
            return Ok(Hierarchy::V2 { group, gate: Gate::load().ok() });
        }
        let controller = |folder: &str| {
            if !root.join(folder).join("cgroup.procs").exists() {
                return Ok(None);
            }
            let above = root.join(folder).join(&parent.0);
            fs::create_dir_all(&above)?;
            make_usable(&above.join(name)).map(|()| Some(above.join(name)))
        };
        let (memory, pids, cpu) = (controller("memory")?, controller("pids")?, controller("cpu")?);
        if memory.is_none() && pids.is_none() && cpu.is_none() {
            return Err(io::Error::other("this machine has no control groups"));
        }
        let devices = controller("devices")?.filter(|group| gate::close_group(group).is_ok());
        let cpuset = cpuset(root, &Path::new(&parent.0).join(name));
        Ok(Hierarchy::V1 { memory, pids, cpu, cpuset, devices, joined: Joined::All })
    }

    fn groups(&self) -> Vec<&PathBuf> {
        match self {
            Hierarchy::V1 { memory, pids, cpu, cpuset, .. } => {
                let made = cpuset.iter().filter(|group| group.exists());
                [memory, pids, cpu].into_iter().flatten().chain(made).collect()
            }
            Hierarchy::V2 { group, .. } => vec![group],
            Hierarchy::Absent => Vec::new(),
        }
    }

    /// What a step asks for that no group of this machine limits.
    pub(crate) fn lacks(&self, asked: &Resources) -> Option<&'static str> {
        let has = |file: &str| match self {
            Hierarchy::V2 { group, .. } => {
                let listed = fs::read_to_string(mount_of(group).join("cgroup.controllers"));
                listed.is_ok_and(|listed| listed.split_whitespace().any(|it| it == file))
            }
            Hierarchy::Absent => false,
            Hierarchy::V1 { memory, cpu, cpuset, .. } => match file {
                "memory" => memory.is_some(),
                "cpu" => cpu.is_some(),
                _ => cpuset.is_some(),
            },
        };
        let wanted = [
            ("memory", asked.memory_bytes_max.is_some()),
            ("cpu", asked.limits_cpu()),
            ("cpuset", asked.chooses()),
        ];
        wanted.into_iter().find(|(what, wants)| *wants && !has(what)).map(|(what, _)| what)
    }

    /// Makes an attempt's groups with its limits, closed for devices other than the usual where that can be.
    pub(crate) fn make(
        &self,
        attempt: &str,
        (limits, security): (&Limits, Security),
    ) -> io::Result<Cgroup> {
        let is_closed = security == Security::Default;
        let mut cgroup = Cgroup { paths: CgroupPaths::default(), devices: !is_closed };
        let paths = &mut cgroup.paths;
        let mut make = |group: &Path| -> io::Result<PathBuf> {
            let path = group.join(attempt);
            fs::create_dir(&path)?;
            paths.own.push(path.clone());
            Ok(path)
        };
        match self {
            Hierarchy::Absent => {}
            Hierarchy::V1 { memory, pids, cpu, cpuset, devices, joined } => {
                let (all, resources) = (*joined == Joined::All, &limits.resources);
                let memory_max = limits.memory();
                if let Some(memory) = memory.as_ref().filter(|_| all || memory_max.is_some()) {
                    let group = make(memory)?;
                    memory_max.map_or(Ok(()), |max| limit::memory(&group, max))?;
                }
                if let Some(pids) = pids {
                    fs::write(make(pids)?.join("pids.max"), limits.pids_max.to_string())?;
                }
                if let Some(cpu) = cpu.as_ref().filter(|_| all || resources.limits_cpu()) {
                    limit::cpu(&make(cpu)?, resources)?;
                }
                if let Some(cpuset) = cpuset.as_ref().filter(|_| resources.chooses()) {
                    fs::create_dir_all(cpuset)?;
                    let root = mount_of(cpuset);
                    limit::sets(root, &make(cpuset)?, resources)?;
                }
                if is_closed {
                    cgroup.devices = devices.is_some();
                    cgroup.paths.devices.clone_from(devices);
                }
            }
            Hierarchy::V2 { group, gate } => {
                let path = make(group)?;
                if is_closed {
                    let closed = gate.as_ref().map(|gate| gate.close_group(&path));
                    cgroup.devices = closed.is_some_and(|closed| closed.is_ok());
                }
                if path.join("pids.max").exists() {
                    fs::write(path.join("pids.max"), limits.pids_max.to_string())?;
                }
                if let Some(max) = limits.memory() {
                    limit::memory_unified(&path, max)?;
                }
                limit::cpu_unified(&path, &limits.resources)?;
                if limits.resources.chooses() {
                    limit::sets_unified(mount_of(group), &path, &limits.resources)?;
                }
            }
        }
        Ok(cgroup)
    }

    /// Kills and removes the groups of attempts that are not `live`.
    pub(crate) fn sweep(&self, live: &BTreeSet<String>) -> io::Result<()> {
        for group in self.groups() {
            for entry in fs::read_dir(group)? {
                let entry = entry?;
                let known = entry.file_name().to_str().is_some_and(|name| live.contains(name));
                if entry.file_type()?.is_dir() && !known {
                    remove(&entry.path())?;
                }
            }
        }
        Ok(())
    }
}

/// Where groups of version 1 go that choose processors, if this machine has those.
fn cpuset(root: &Path, name: &Path) -> Option<PathBuf> {
    let mounted = root.join("cpuset");
    mounted.join("cgroup.procs").exists().then(|| mounted.join(name))
}

/// The top of the hierarchy that a group is in: the last above it that is a group at all.
fn mount_of(group: &Path) -> &Path {
    let groups = group.ancestors().take_while(|above| above.join("cgroup.procs").exists());
    groups.last().unwrap_or(group)
}

/// A group that a build names, below which its steps have theirs: a path without its first slash.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Parent(String);

impl Parent {
    /// Reads `--cgroup-parent`: a path from the top of the hierarchy, or the name of a slice of systemd's.
    pub(crate) fn parse(text: &str) -> Option<Parent> {
        let path = text.trim_matches('/');
        let plain = |part: &str| {
            !part.is_empty() && part != "." && part != ".." && !part.contains(['\0', '\n', ':'])
        };
        if !path.split('/').all(plain) {
            return None;
        }
        Some(Parent(slices(path).unwrap_or_else(|| path.to_owned())))
    }
}

/// Where systemd keeps a slice: `a-b.slice` lies in `a.slice`.
fn slices(name: &str) -> Option<String> {
    let stem = name.strip_suffix(".slice").filter(|_| !name.contains('/'))?;
    let ends = stem.match_indices('-').map(|(end, _)| end).chain([stem.len()]);
    let folders: Vec<String> =
        ends.filter_map(|end| Some(format!("{}.slice", stem.get(..end)?))).collect();
    stem.split('-').all(|part| !part.is_empty()).then(|| folders.join("/"))
}

/// Where it is kept which groups of builds have groups of this name below them.
fn parents_file(state: &Path, name: &str) -> PathBuf {
    state.join("parents").join(name)
}

/// Notes that a group has groups of this name below it, before they are made.
pub(crate) fn note_parent(state: &Path, name: &str, parent: &Parent) -> io::Result<()> {
    let file = parents_file(state, name);
    fs::create_dir_all(state.join("parents"))?;
    let mut file = fs::OpenOptions::new().create(true).append(true).open(file)?;
    file.write_all(format!("{}\n", parent.0).as_bytes())
}

/// Kills what runs in the groups of this name and removes them, whichever version they are of; also below the groups
/// that builds have named. `state` is the sandbox's.
pub fn remove_groups(root: &Path, state: &Path, name: &str) -> io::Result<()> {
    remove_named(root, Path::new(name))?;
    let file = parents_file(state, name);
    let parents = match fs::read_to_string(&file) {
        Ok(parents) => parents,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for parent in parents.lines().collect::<BTreeSet<_>>().into_iter().filter_map(Parent::parse) {
        remove_named(root, &Path::new(&parent.0).join(name))?;
    }
    fs::remove_file(&file)
}

fn remove_named(root: &Path, name: &Path) -> io::Result<()> {
    for group in ["", "memory", "pids", "cpu", "cpuset", "devices"]
        .map(|folder| root.join(folder).join(name))
    {
        let entries = match fs::read_dir(&group) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        for entry in entries {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                remove(&entry.path())?;
            }
        }
        remove(&group)?;
    }
    Ok(())
}

/// Hands the controllers of a group of version 2 on to those below it, as far as that is possible.
fn delegate(group: &Path) {
    for controller in ["+memory", "+pids", "+cpu"] {
        let _refused = fs::write(group.join("cgroup.subtree_control"), controller);
    }
}

/// Makes a group, unless it is there and can be written.
fn make_usable(group: &Path) -> io::Result<()> {
    match fs::create_dir(group) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            Ok(rustix::fs::access(group, rustix::fs::Access::WRITE_OK)?)
        }
        made => made,
    }
}

/// The groups of one attempt, removed when dropped.
#[derive(Debug)]
pub(crate) struct Cgroup {
    paths: CgroupPaths,
    devices: bool,
}

impl Cgroup {
    /// The groups that the cell joins.
    pub(crate) fn paths(&self) -> &CgroupPaths {
        &self.paths
    }

    /// Whether nodes that a step makes may open what they stand for: the usual ones do, and others as far as the step is
    /// allowed to do everything.
    pub(crate) fn has_devices(&self) -> bool {
        self.devices
    }

    /// Reads what the kernel counted.
    pub(crate) fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for path in &self.paths.own {
            for file in ["memory.oom_control", "memory.events"] {
                counts.oom_kills = counts.oom_kills.max(field(&path.join(file), "oom_kill"));
            }
            counts.pids_refused = counts.pids_refused.max(field(&path.join("pids.events"), "max"));
        }
        counts
    }

    /// Kills what is inside.
    pub(crate) fn kill(&self) {
        for path in &self.paths.own {
            kill(path);
        }
    }

    /// Removes the groups; waits for the kernel where it must.
    pub(crate) fn remove(mut self) -> io::Result<()> {
        for path in std::mem::take(&mut self.paths.own) {
            remove(&path)?;
        }
        Ok(())
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        for path in &self.paths.own {
            kill(path);
            // What stays is found by the next sweep.
            let _busy = fs::remove_dir(path);
        }
    }
}

fn kill(group: &Path) {
    if fs::write(group.join("cgroup.kill"), "1").is_ok() {
        return;
    }
    let Ok(pids) = fs::read_to_string(group.join("cgroup.procs")) else { return };
    for pid in pids.lines().filter_map(|line| line.parse().ok()).filter_map(Pid::from_raw) {
        // It may have ended by itself.
        let _gone = kill_process(pid, Signal::KILL);
    }
}

fn remove(group: &Path) -> io::Result<()> {
    let mut tries = 0;
    loop {
        match fs::remove_dir(group) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) if tries == REMOVE_TRIES_MAX => return Err(error),
            Err(_) => {
                kill(group);
                // A step that may do everything makes groups below its own.
                for below in folders(group) {
                    remove(&below)?;
                }
            }
        }
        tries += 1;
        std::thread::sleep(REMOVE_PAUSE);
    }
}

fn folders(group: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(group) else { return Vec::new() };
    let folders = entries.flatten().filter(|it| it.file_type().is_ok_and(|kind| kind.is_dir()));
    folders.map(|entry| entry.path()).collect()
}

fn field(file: &Path, name: &str) -> u64 {
    let Ok(text) = fs::read_to_string(file) else { return 0 };
    parse_field(&text, name)
}

fn parse_field(text: &str, name: &str) -> u64 {
    text.lines()
        .filter_map(|line| line.split_once(' '))
        .find(|(key, _)| *key == name)
        .and_then(|(_, value)| value.trim().parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parents_are_paths_or_slices() {
        for (text, want) in [
            ("/a/b", Some("a/b")),
            ("a", Some("a")),
            ("/a/", Some("a")),
            ("ci.slice", Some("ci.slice")),
            ("ci-heavy-x.slice", Some("ci.slice/ci-heavy.slice/ci-heavy-x.slice")),
            ("/ci.slice/ci-heavy.slice", Some("ci.slice/ci-heavy.slice")),
            ("-.slice", Some("-.slice")),
            ("", None),
            ("/", None),
            ("a/../b", None),
            ("a//b", None),
            ("a/./b", None),
            ("system.slice:docker:x", None),
        ] {
            assert_eq!(Parent::parse(text), want.map(|path| Parent(path.to_owned())), "{text}");
        }
    }

    #[test]
    fn fields_are_found_by_their_whole_name() {
        let text = "oom_kill_disable 1\nunder_oom 0\noom_kill 3\n";
        assert_eq!(parse_field(text, "oom_kill"), 3);
        assert_eq!(parse_field(text, "max"), 0);
        assert_eq!(parse_field("max x", "max"), 0);
    }
}
