//! The program itself: its environment, where it is found, and what is said when it is not.

use std::collections::HashMap;
use std::ffi::CString;
use std::io::Write;

use nix::errno::Errno;
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit};
use rustix::fs::{Mode, OFlags, fchown};
use rustix::process::Uid;

use crate::report::Failure;
use crate::spec::{CellSpec, Ulimit, UlimitResource};
use crate::sys;
use crate::user::Identity;

/// Where programs are looked for when the environment does not say.
const PATH_DEFAULT: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// What a shell exits with when a command is not found.
const NOT_FOUND: i32 = 127;
/// What a shell exits with when a command cannot be run.
const NOT_RUNNABLE: i32 = 126;

/// All that exec needs, made before the step gives up its rights.
pub(crate) struct Program {
    name: String,
    candidates: Vec<CString>,
    argv: Vec<CString>,
    env: Vec<CString>,
}

/// Writes down a step's program.
pub(crate) fn program(spec: &CellSpec, identity: &Identity) -> Program {
    let mut env = last_values(&spec.env);
    // One that is set to nothing counts as not set, as with runc.
    env.retain(|(name, value)| name != "HOME" || !value.is_empty());
    if !env.iter().any(|(name, _)| name == "HOME") {
        env.push(("HOME".to_owned(), identity.home.clone()));
    }
    let name = spec.argv.first().cloned().unwrap_or_default();
    let path = env.iter().rev().find(|(name, _)| name == "PATH");
    let candidates = if name.contains('/') {
        vec![name.clone()]
    } else {
        let path = path.map_or(PATH_DEFAULT, |(_, value)| value.as_str());
        let folder =
            |folder: &str| if folder.is_empty() { ".".to_owned() } else { folder.to_owned() };
        path.split(':').map(|each| format!("{}/{name}", folder(each))).collect()
    };
    // NUL bytes were refused before the cell was started.
    let text = |text: String| CString::new(text).ok();
    Program {
        name,
        candidates: candidates.into_iter().filter_map(text).collect(),
        argv: spec.argv.iter().cloned().filter_map(text).collect(),
        env: env.iter().map(|(name, value)| format!("{name}={value}")).filter_map(text).collect(),
    }
}

/// Each variable once, with the value that was said last, as with runc: programs differ in which of two they take.
fn last_values(all: &[(String, String)]) -> Vec<(String, String)> {
    let mut env: Vec<(String, String)> = Vec::with_capacity(all.len());
    let mut places: HashMap<&str, usize> = HashMap::with_capacity(all.len());
    for (name, value) in all {
        let known = places.get(name.as_str()).and_then(|place| env.get_mut(*place));
        if let Some((_, before)) = known {
            before.clone_from(value);
        } else {
            places.insert(name, env.len());
            env.push((name.clone(), value.clone()));
        }
    }
    env
}

/// Becomes the program; a program that cannot be run ends the step as a shell would.
pub(crate) fn exec(program: &Program) -> Failure {
    let mut worst = Errno::ENOENT;
    for candidate in &program.candidates {
        let Err(errno) = nix::unistd::execve(candidate, &program.argv, &program.env);
        match errno {
            Errno::ENOENT | Errno::ENOTDIR => {}
            errno => {
                worst = errno;
                if errno != Errno::EACCES {
                    break;
                }
            }
        }
    }
    let (code, reason) = match worst {
        Errno::ENOENT if program.name.contains('/') => (NOT_FOUND, "no such file or directory"),
        Errno::ENOENT => (NOT_FOUND, "executable file not found in $PATH"),
        Errno::EACCES => (NOT_RUNNABLE, "permission denied"),
        Errno::ENOEXEC => (NOT_RUNNABLE, "exec format error"),
        Errno::E2BIG => (
            NOT_RUNNABLE,
            "the command is too long: Linux takes 128 KiB in one argument or variable, and 2 MiB in all; COPY a script in \
             and run that",
        ),
        other => (NOT_RUNNABLE, other.desc()),
    };
    let _unheard = writeln!(std::io::stderr(), "exec: \"{}\": {reason}", program.name);
    sys::exit(code)
}

/// Makes standard input the step's own `/dev/null`.
pub(crate) fn null_stdin() -> Result<(), Failure> {
    let null = rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(Failure::machine("open /dev/null"))?;
    nix::unistd::dup2_stdin(&null).map_err(|errno| Failure::Machine {
        action: "close standard input".to_owned(),
        reason: errno.to_string(),
        lasting: false,
    })
}

/// Makes what the step says its user's, who may then open it once more by its name: `/dev/stdout`.
pub(crate) fn own_output(identity: &Identity) -> Result<(), Failure> {
    let user = Some(Uid::from_raw(identity.uid));
    fchown(std::io::stdout(), user, None)
        .and_then(|()| fchown(std::io::stderr(), user, None))
        .map_err(Failure::machine("give the step its output"))
}

/// Sets the limits of each process.
pub(crate) fn set_ulimits(ulimits: &[Ulimit]) -> Result<(), Failure> {
    for ulimit in ulimits {
        let (soft, hard) =
            (ulimit.soft.unwrap_or(RLIM_INFINITY), ulimit.hard.unwrap_or(RLIM_INFINITY));
        setrlimit(resource(ulimit.resource), soft, hard)
            .map_err(|errno| no_limit(ulimit, hard, errno))?;
    }
    Ok(())
}

/// Why a limit cannot be set, with the highest that can be.
fn no_limit(ulimit: &Ulimit, hard: u64, errno: Errno) -> Failure {
    let limit = |value: Option<u64>| value.map_or("-1".to_owned(), |value| value.to_string());
    let name = format!("{:?}", ulimit.resource).to_lowercase();
    let text = format!("{name}={}:{}", limit(ulimit.soft), limit(ulimit.hard));
    let kernel = std::fs::read_to_string("/proc/sys/fs/nr_open").ok();
    let kernel = kernel.and_then(|text| text.trim().parse::<u64>().ok());
    let of_kernel =
        ulimit.resource == UlimitResource::Nofile && kernel.is_some_and(|most| hard > most);
    let reason = match (kernel, getrlimit(resource(ulimit.resource))) {
        _ if errno != Errno::EPERM => errno.desc().to_owned(),
        (Some(most), _) if of_kernel => {
            format!("the kernel allows {most} (fs.nr_open)")
        }
        (_, Ok((_, RLIM_INFINITY)) | Err(_)) => errno.desc().to_owned(),
        (_, Ok((_, most))) => format!("the hard limit of dcbuild's process is {most}"),
    };
    Failure::Limit { ulimit: text, reason, of_kernel }
}

fn resource(resource: UlimitResource) -> Resource {
    match resource {
        UlimitResource::Core => Resource::RLIMIT_CORE,
        UlimitResource::Cpu => Resource::RLIMIT_CPU,
        UlimitResource::Data => Resource::RLIMIT_DATA,
        UlimitResource::Fsize => Resource::RLIMIT_FSIZE,
        UlimitResource::Locks => Resource::RLIMIT_LOCKS,
        UlimitResource::Memlock => Resource::RLIMIT_MEMLOCK,
        UlimitResource::Msgqueue => Resource::RLIMIT_MSGQUEUE,
        UlimitResource::Nice => Resource::RLIMIT_NICE,
        UlimitResource::Nofile => Resource::RLIMIT_NOFILE,
        UlimitResource::Nproc => Resource::RLIMIT_NPROC,
        UlimitResource::Rss => Resource::RLIMIT_RSS,
        UlimitResource::Rtprio => Resource::RLIMIT_RTPRIO,
        UlimitResource::Rttime => Resource::RLIMIT_RTTIME,
        UlimitResource::Sigpending => Resource::RLIMIT_SIGPENDING,
        UlimitResource::Stack => Resource::RLIMIT_STACK,
    }
}
