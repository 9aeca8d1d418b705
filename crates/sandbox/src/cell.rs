//! The helper and the warden: who makes the step's process, who waits for it, and who ends it.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;

use nix::sched::CloneFlags;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitOptions, WaitStatus, pidfd_open, pidfd_send_signal,
    set_parent_process_death_signal, waitpid,
};

use crate::cgroup::Groups;
use crate::inside;
use crate::report::{Failure, Order, Report};
use crate::sys::{self, Side};

/// The first argument that makes the binary a cell's helper.
pub const CELL_ARGUMENT: &str = "cell";

/// The largest order.
const ORDER_BYTES_MAX: u64 = 64 << 20;

/// Is the helper of one step: reads its order from standard input, and ends when the step has ended or its caller is gone.
pub fn cell_main() -> ExitCode {
    let Ok(caller) = std::io::stdin().as_fd().try_clone_to_owned() else {
        return ExitCode::FAILURE;
    };
    let mut caller = UnixStream::from(caller);
    match help(&mut caller) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            tell(&mut caller, &Report::Failed(failure));
            ExitCode::FAILURE
        }
    }
}

/// Writes one report; a caller that is gone hears nothing, and its absence ends the helper elsewhere.
pub(crate) fn tell(caller: &mut UnixStream, report: &Report) {
    if let Ok(mut line) = serde_json::to_vec(report) {
        line.push(b'\n');
        let _gone = caller.write_all(&line);
    }
}

fn help(caller: &mut UnixStream) -> Result<(), Failure> {
    let order = read_order(caller)?;
    unshare_pids()?;
    let (lifeline, held) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
        .map_err(Failure::machine("make a pipe"))?;
    match sys::fork().map_err(Failure::machine("start the warden"))? {
        Side::Child => {
            drop(held);
            let code = match guard(caller, &order, lifeline) {
                Ok(()) => 0,
                Err(failure) => {
                    tell(caller, &Report::Failed(failure));
                    1
                }
            };
            sys::exit(code)
        }
        Side::Parent(warden) => {
            drop(lifeline);
            drop(order);
            let ended = end_with(caller.as_fd(), warden);
            drop(held);
            ended.map(drop)
        }
    }
}

fn read_order(caller: &UnixStream) -> Result<Order, Failure> {
    let mut line = Vec::new();
    BufReader::new(caller.take(ORDER_BYTES_MAX))
        .read_until(b'\n', &mut line)
        .map_err(Failure::io("read the step's order"))?;
    serde_json::from_slice(&line).map_err(|error| Failure::Machine {
        action: "read the step's order".to_owned(),
        reason: error.to_string(),
        lasting: false,
    })
}

/// Makes the next child the first process of a new pid namespace.
fn unshare_pids() -> Result<(), Failure> {
    // It only concerns children, and this process has one thread.
    sys::unshare(CloneFlags::CLONE_NEWPID).map_err(Failure::machine("make a pid namespace"))
}

/// Is the warden: the first process of the outer pid namespace.
fn guard(caller: &mut UnixStream, order: &Order, lifeline: OwnedFd) -> Result<(), Failure> {
    set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(Failure::machine("bind the warden to the helper"))?;
    unshare_pids()?;
    let (side, groups) = fork_step(order).map_err(Failure::machine("start the step"))?;
    match side {
        Side::Child => {
            drop(lifeline);
            let failure = inside::become_step(caller, order, groups);
            tell(caller, &Report::Failed(failure));
            sys::exit(1)
        }
        Side::Parent(step) => {
            let status = end_with(lifeline.as_fd(), step)?;
            // A failed setup has told its own story; what follows it is not read.
            if let Some(code) = status.exit_status() {
                tell(caller, &Report::Exited { code });
            } else if let Some(signal) = status.terminating_signal() {
                tell(caller, &Report::Signaled { signal });
            }
            Ok(())
        }
    }
}

/// Starts the step's process, in its group from the first moment where the kernel can.
fn fork_step(order: &Order) -> Result<(Side, Groups), Errno> {
    if let Some(group) = order.cgroup.unified()
        && let Ok(side) = sys::fork_into(group.as_fd())
    {
        return Ok((side, Groups::Joined));
    }
    Ok((sys::fork()?, Groups::ToJoin))
}

/// Waits for a child, which is killed as soon as `line` shows its end.
fn end_with(line: std::os::fd::BorrowedFd<'_>, child: Pid) -> Result<WaitStatus, Failure> {
    let pidfd =
        pidfd_open(child, PidfdFlags::empty()).map_err(Failure::machine("watch a process"))?;
    loop {
        let mut fds = [
            PollFd::from_borrowed_fd(line, PollFlags::IN | PollFlags::RDHUP),
            PollFd::new(&pidfd, PollFlags::IN),
        ];
        match poll(&mut fds, None) {
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            Err(errno) => return Err(Failure::machine("watch a process")(errno)),
        }
        let [line, pidfd_ready] = fds;
        if pidfd_ready.revents().is_empty() && !line.revents().is_empty() {
            // It may have ended by itself.
            let _gone = pidfd_send_signal(&pidfd, Signal::KILL);
        }
        break;
    }
    loop {
        match waitpid(Some(child), WaitOptions::empty()) {
            Ok(Some((_, status))) => return Ok(status),
            Ok(None) | Err(Errno::INTR) => {}
            Err(errno) => return Err(Failure::machine("wait for a process")(errno)),
        }
    }
}
