//! A Redis on a free port, stopped at the end; as the tests of the index start it.

pub use dcbuild_testkit::redis::RedisServer;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_answers() {
        let server = RedisServer::start(&[]);
        assert_eq!(server.ask(&["PING"]), "PONG");
    }
}
