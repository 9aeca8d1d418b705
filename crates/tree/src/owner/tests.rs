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
    // It is 0 wherever it is looked for.
    for spec in ["root", "root:root", "0:root"] {
        for accounts in [Accounts::Scratch, Accounts::Linked] {
            assert_eq!(resolve_owner(spec, accounts), Ok((0, 0)), "{spec}");
        }
    }
    let other = Accounts::Files { passwd: Some(b"root:x:7:8::/:"), group: Some(b"root:x:9:") };
    assert_eq!(resolve_owner("root", other), Ok((0, 0)));
    let error = resolve_owner("5:nobody", Accounts::Linked).unwrap_err().to_string();
    assert!(error.contains("--link does not see"), "{error}");
    let gone = Accounts::Files { passwd: None, group: None };
    assert_eq!(resolve_owner("nobody", gone), Ok((0, 0)));
    assert!(check("99999999999").is_err());
}
