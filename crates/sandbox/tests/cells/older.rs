//! Programs of an older architecture, which the processor runs by itself: in a cell as outside.

use std::os::unix::fs::PermissionsExt;

use dcbuild_sandbox::{Outcome, native};

use super::Fixture;

/// A program of 386 that makes one call and ends with the number of its error.
fn program(call: u32, argument: u32) -> Vec<u8> {
    const BASE: u32 = 0x0804_8000;
    let mut code = vec![0xb8];
    code.extend(call.to_le_bytes());
    code.push(0xbb);
    code.extend(argument.to_le_bytes());
    // xor ecx, ecx; xor edx, edx; int 0x80; neg eax; mov ebx, eax; mov eax, 1; int 0x80
    code.extend([0x31, 0xc9, 0x31, 0xd2, 0xcd, 0x80, 0xf7, 0xd8, 0x89, 0xc3]);
    code.extend([0xb8, 1, 0, 0, 0, 0xcd, 0x80]);
    let bytes = 84 + u32::try_from(code.len()).unwrap();
    let mut file = b"\x7fELF\x01\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x03\0".to_vec();
    for word in [1, BASE + 84, 52, 0, 0] {
        file.extend(u32::to_le_bytes(word));
    }
    for half in [52u16, 32, 1, 0, 0, 0] {
        file.extend(half.to_le_bytes());
    }
    for word in [1, 0, BASE, BASE, bytes, bytes, 5, 0x1000] {
        file.extend(word.to_le_bytes());
    }
    file.extend(code);
    file
}

pub(super) fn programs_of_386_run_under_the_same_filter() {
    if !native().iter().any(|platform| platform.arch == "386") {
        return;
    }
    let fixture = Fixture::new("older");
    let errno = |call: u32, argument: u32| {
        let path = fixture.lower("bin/older");
        std::fs::write(&path, program(call, argument)).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
        fixture.run(fixture.spec("exec /bin/older")).exit.unwrap().outcome
    };
    let (eperm, enosys) = (Outcome::Exited(libc::EPERM), Outcome::Exited(libc::ENOSYS));
    // getppid has no error, and the process that started it is outside: 0.
    assert_eq!(errno(64, 0), Outcome::Exited(0));
    // add_key, keyctl: without a filter they would find fault with what they are given.
    assert_eq!((errno(286, 0), errno(288, 0)), (eperm, eperm));
    // clone3, and clone with a namespace of its own for names of hosts.
    assert_eq!((errno(435, 0), errno(120, 0x0400_0000)), (enosys, eperm));
    // The personality may be asked for, and be that of a 32-bit Linux, and no other.
    assert_eq!((errno(136, 8), errno(136, 6)), (Outcome::Exited(0), eperm));
    // A socket to the machine that this one runs in; one of the usual kinds is refused for what else it lacks.
    assert_eq!(errno(359, 40), eperm);
    assert_ne!(errno(359, 2), eperm);
}
