use expect_test::{Expect, expect};

use super::*;

fn check(url: &str, wanted: &Expect) {
    let shown = match RedisConfig::from_url(url) {
        Ok(config) => {
            let secret = config.credentials.as_ref().map(|it| (it.user.as_deref(), &*it.password));
            format!("{config} {secret:?} {:?}", config.servers)
        }
        Err(error) => format!("error: {error}"),
    };
    wanted.assert_eq(&shown);
}

#[test]
fn urls_are_read() {
    check(
        "redis://cache",
        &expect![[r#"redis://cache:6379 None One(RedisAddress { host: "cache", port: 6379 })"#]],
    );
    check(
        "rediss://cache:1234/3",
        &expect![[r#"rediss://cache:1234/3 None One(RedisAddress { host: "cache", port: 1234 })"#]],
    );
    check(
        "redis://[::1]:7000",
        &expect![[r#"redis://[::1]:7000 None One(RedisAddress { host: "::1", port: 7000 })"#]],
    );
    check(
        "redis://:p%40ss@cache",
        &expect![[
            r#"redis://cache:6379 Some((None, "p@ss")) One(RedisAddress { host: "cache", port: 6379 })"#
        ]],
    );
    check(
        "redis://user:a:b@cache/",
        &expect![[
            r#"redis://cache:6379 Some((Some("user"), "a:b")) One(RedisAddress { host: "cache", port: 6379 })"#
        ]],
    );
    check(
        "redis+sentinel://u:p@one,two:5000/main/2",
        &expect![[
            r#"redis+sentinel://one:26379,two:5000/main/2 Some((Some("u"), "p")) Sentinels { sentinels: [RedisAddress { host: "one", port: 26379 }, RedisAddress { host: "two", port: 5000 }], service: "main" }"#
        ]],
    );
    check(
        "rediss+sentinel://one/main",
        &expect![[
            r#"rediss+sentinel://one:26379/main None Sentinels { sentinels: [RedisAddress { host: "one", port: 26379 }], service: "main" }"#
        ]],
    );
}

#[test]
fn wrong_urls_say_what_is_wrong() {
    check(
        "cache:6379",
        &expect![
            "error: 'cache:6379' is none of redis://, rediss://, redis+sentinel:// and rediss+sentinel://"
        ],
    );
    check(
        "http://cache",
        &expect![
            "error: 'http' is none of redis://, rediss://, redis+sentinel:// and rediss+sentinel://"
        ],
    );
    check(
        "user:hunter2@cache",
        &expect![
            "error: '...@' is none of redis://, rediss://, redis+sentinel:// and rediss+sentinel://"
        ],
    );
    check("redis://", &expect!["error: no host is named: write redis://HOST:PORT"]);
    check("redis://cache:0", &expect!["error: '0' is not a port: it is a number from 1 to 65535"]);
    check(
        "redis://cache:many",
        &expect!["error: 'many' is not a port: it is a number from 1 to 65535"],
    );
    check(
        "redis://cache/main",
        &expect!["error: 'main' is not the number of a database: write redis://HOST:PORT/0"],
    );
    check(
        "redis://one,two",
        &expect![
            "error: several hosts are named: only sentinels may be several, in redis+sentinel://"
        ],
    );
    check(
        "redis+sentinel://one,two",
        &expect!["error: no service is named: write redis+sentinel://HOST:PORT,HOST:PORT/SERVICE"],
    );
    check(
        "redis+sentinel://one,/main",
        &expect!["error: no host is named: write redis://HOST:PORT"],
    );
    check(
        "redis://u:50%@cache",
        &expect![
            "error: a '%' in the user or password is not followed by two hexadecimal digits: write it as %25"
        ],
    );
    check(
        "redis://cache?ssl=true",
        &expect!["error: '?ssl=true' is not understood: options are set in the configuration"],
    );
}

#[test]
fn a_password_is_never_shown() {
    let config = RedisConfig::from_url("redis://u:hunter2@cache").unwrap();
    assert!(!format!("{config} {config:?}").contains("hunter2"));
}
