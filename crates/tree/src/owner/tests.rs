use super::*;

fn check(spec: &str) -> Result<(u32, u32), OwnerError> {
    let passwd = b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/bin/false\nal:x:31:32::/:/bin/sh\n";
    let group = b"root:x:0:\nnogroup:x:65530:\n";
    resolve_owner(spec, Accounts::Files { passwd: Some(passwd), group: Some(group) })
}

#[test]
fn owners_are_found_as_buildkit_finds_them() {
    for (spec, want) in [
        ("11", (11, 11)),
        ("31", (31, 31)),
        ("11:", (11, 0)),
        ("al", (31, 32)),
        ("nobody:nogroup", (65534, 65530)),
        ("nobody:7", (65534, 7)),
        ("nobody:ghosts", (65534, 65534)),
        ("ghost", (0, 0)),
        ("", (0, 0)),
        ("1:2:3", (1, 1)),
        ("nobody.nogroup", (0, 0)),
        ("4000000:65534", (4_000_000, 65534)),
    ] {
        assert_eq!(check(spec), Ok(want), "{spec}");
    }
}

#[test]
fn an_empty_stage_knows_no_names() {
    assert_eq!(resolve_owner("5:6", Accounts::Scratch), Ok((5, 6)));
    assert!(resolve_owner("nobody", Accounts::Scratch).is_err());
    let gone = Accounts::Files { passwd: None, group: None };
    assert_eq!(resolve_owner("nobody", gone), Ok((0, 0)));
    assert!(check("99999999999").is_err());
}
