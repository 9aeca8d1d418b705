//! Which device nodes a step may open: those that every container has in its `/dev`. It may make any, as with docker; what
//! else it makes opens nothing.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use rustix::io::Errno;

use crate::sys::{self, Instruction};

/// The character devices that may be opened: major, and minor unless all of that major may be.
const OPEN: [(u32, Option<u32>); 8] = [
    (1, Some(3)), // null
    (1, Some(5)), // zero
    (1, Some(7)), // full
    (1, Some(8)), // random
    (1, Some(9)), // urandom
    (5, Some(0)), // tty
    (5, Some(2)), // ptmx
    (136, None),  // pts/*
];

/// Closes a group of version 1 for all other devices.
pub(crate) fn close_group(group: &Path) -> io::Result<()> {
    let rules = OPEN.map(|(major, minor)| match minor {
        Some(minor) => format!("c {major}:{minor} rwm"),
        None => format!("c {major}:* rwm"),
    });
    // Steps of before may run in it.
    if fs::read_to_string(group.join("devices.list"))?.starts_with('a') {
        fs::write(group.join("devices.deny"), "a")?;
    }
    let making = ["c *:* m", "b *:* m"].map(str::to_owned);
    making.iter().chain(&rules).try_for_each(|rule| fs::write(group.join("devices.allow"), rule))
}

/// The same for groups of version 2: a program of the kernel's, which each of them is given.
#[derive(Clone, Debug)]
pub(crate) struct Gate(Arc<OwnedFd>);

impl Gate {
    /// Loads the program; older kernels, and processes without the right to, have none.
    pub(crate) fn load() -> Result<Gate, Errno> {
        Ok(Gate(Arc::new(sys::load_device_program(&program())?)))
    }

    /// Closes a group that nobody is in yet.
    pub(crate) fn close_group(&self, group: &Path) -> io::Result<()> {
        let group = fs::File::open(group)?;
        Ok(sys::attach_device_program(self.0.as_fd(), group.as_fd())?)
    }
}

/// What the kernel asks about: how it is to be used in the upper half of the first word, and what it is in the lower;
/// then major and minor.
fn program() -> Vec<Instruction> {
    const CONTEXT: u8 = 1;
    const KIND: u8 = 2;
    const USE: u8 = 3;
    const MAJOR: u8 = 4;
    const MINOR: u8 = 5;
    const CHARACTER_DEVICE: u32 = 2;
    const MAKE: u32 = 1;
    let answer = |allowed| [Instruction::set(0, allowed), Instruction::exit()];
    let mut steps = vec![
        Instruction::load(KIND, CONTEXT, 0),
        Instruction::copy(USE, KIND),
        Instruction::shift_right(USE, 16),
        Instruction::and(KIND, 0xffff),
        Instruction::load(MAJOR, CONTEXT, 4),
        Instruction::load(MINOR, CONTEXT, 8),
        Instruction::skip_unless(USE, MAKE, 2),
    ];
    steps.extend(answer(1));
    steps.push(Instruction::skip_if(KIND, CHARACTER_DEVICE, 2));
    steps.extend(answer(0));
    for (major, minor) in OPEN {
        match minor {
            Some(minor) => steps.extend([
                Instruction::skip_unless(MAJOR, major, 3),
                Instruction::skip_unless(MINOR, minor, 2),
            ]),
            None => steps.push(Instruction::skip_unless(MAJOR, major, 2)),
        }
        steps.extend(answer(1));
    }
    steps.extend(answer(0));
    steps
}
