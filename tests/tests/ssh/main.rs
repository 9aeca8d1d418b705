//! `RUN --mount=type=ssh`: real ssh-add in a RUN, the keys with the client.
#![expect(clippy::unwrap_used, reason = "test")]

mod openssh;

use dcbuild_tests::cluster::Cluster;
use dcbuild_tests::running::{Finished, Running};
use dcbuild_tests::story::Story;
use dcbuild_tests::wait::LONG;
use dcbuild_tests::web::Web;
use openssh::{SshAgent, fingerprint, image, key};

fn story(dockerfile: &str) -> Story {
    let story = Story::new(dockerfile, &[]);
    story.registry.put("library/ssh:1", &image());
    story
}

/// What ended up in a file of the image's root.
fn text(story: &Story, name: &str) -> String {
    std::fs::read_to_string(story.home.path("out").join(name)).unwrap()
}

fn build(story: &Story, socket: Option<&SshAgent>, flags: &[&str]) -> Finished {
    let (context, out) = (story.home.arg("context"), story.home.arg("out"));
    let fixed = ["build", "--progress", "plain", "-o", &out];
    let all = fixed.into_iter().chain(flags.iter().copied()).chain([context.as_str()]);
    let mut command = story.home.command(all);
    if let Some(agent) = socket {
        command.env("SSH_AUTH_SOCK", &agent.socket);
    }
    Running::start(command).finish(LONG)
}

const LISTS: &str = "FROM ssh:1\nRUN --mount=type=ssh ssh-add -l > /keys && echo $SSH_AUTH_SOCK > /path && stat -c '%a %u:%g' $SSH_AUTH_SOCK > /mode\n";

#[test]
fn a_run_sees_the_agent_of_the_environment() {
    let story = story(LISTS);
    let made = key(&story.home.path("user"), "id", "");
    let agent = SshAgent::start(&story.home.path("user"), &made);
    build(&story, Some(&agent), &["--ssh", "default"]).well();
    assert!(text(&story, "keys").contains(&fingerprint(&made)), "{}", text(&story, "keys"));
    assert_eq!(text(&story, "path"), "/run/buildkit/ssh_agent.0\n");
    assert_eq!(text(&story, "mode"), "600 0:0\n");
    // The mount point is no part of the image.
    assert!(!story.home.path("out/run/buildkit").exists());
}

#[test]
fn keys_are_served_without_an_agent() {
    let mount = "--mount=type=ssh,id=deploy,target=/agent,mode=0666,uid=65534,gid=7";
    let dockerfile = format!(
        "FROM ssh:1\nUSER nobody\nRUN {mount} ssh-add -l > /tmp/keys && stat -c '%a %u:%g' $SSH_AUTH_SOCK > /tmp/mode\n"
    );
    let story = story(&dockerfile);
    let folder = story.home.path("user");
    let (one, two) = (key(&folder, "one", ""), key(&folder, "two", ""));
    let ssh = format!("deploy={},{}", one.display(), two.display());
    build(&story, None, &["--ssh", &ssh]).well();
    let keys = text(&story, "tmp/keys");
    assert_eq!(keys.lines().count(), 2, "{keys}");
    assert!(keys.contains(&fingerprint(&one)) && keys.contains(&fingerprint(&two)), "{keys}");
    assert_eq!(text(&story, "tmp/mode"), "666 65534:7\n");
}

#[test]
fn an_agent_is_asked_to_list_and_to_sign_and_nothing_else() {
    let story = story(
        "FROM ssh:1\nRUN --mount=type=ssh ssh-add -D; ssh-add -x < /dev/null; ssh-add -l > /keys\n",
    );
    let made = key(&story.home.path("user"), "id", "");
    let agent = SshAgent::start(&story.home.path("user"), &made);
    let before = agent.listed();
    build(&story, Some(&agent), &["--ssh", "default"]).well();
    assert!(text(&story, "keys").contains(&fingerprint(&made)));
    assert_eq!(agent.listed(), before);
}

#[test]
fn what_cannot_be_forwarded_is_said() {
    let required = "FROM ssh:1\nRUN --mount=type=ssh,required true\n";
    let story = story(required);
    let folder = story.home.path("user");
    let secret = key(&folder, "secret", "passphrase");
    let flag = format!("default={}", secret.display());
    for (flags, want) in [
        (vec![], "no SSH key \"default\" forwarded from the client"),
        (vec!["--ssh", "other=/none"], "could not read the ssh key or socket '/none'"),
        (vec!["--ssh", "default"], "SSH_AUTH_SOCK names none"),
        (vec!["--ssh", &flag], "it is encrypted, and nobody is asked for its passphrase"),
    ] {
        let said = build(&story, None, &flags).failed().stderr;
        assert!(said.contains(want) && said.contains("hint:"), "{flags:?}: {said}");
    }
    // One that is not required is not there, as with docker.
    story.write("Dockerfile", "FROM ssh:1\nRUN --mount=type=ssh test ! -e \"$SSH_AUTH_SOCK\"\n");
    build(&story, None, &[]).well();
}

#[test]
fn on_a_cluster_the_keys_stay_with_the_client() {
    let Story { home, registry } = story(LISTS);
    let made = key(&home.path("user"), "id", "");
    let agent = SshAgent::start(&home.path("user"), &made);
    let (context, out) = (home.arg("context"), home.arg("out"));
    let ssh = format!("default={}", agent.socket.display());
    let cluster = Cluster::start(home, 1, 1);
    let detached = cluster.ask("submit", &["--ssh", &ssh, "--detach", &context]).failed().stderr;
    assert!(detached.contains("--detach and --ssh"), "{detached}");
    cluster.ask("submit", &["--ssh", &ssh, "-o", &out, &context]).well();
    let keys = std::fs::read_to_string(format!("{out}/keys")).unwrap();
    assert!(keys.contains(&fingerprint(&made)), "{keys}");
    drop(registry);
}

/// Stands for ssh: writes down which keys the agent offers, and serves the repository from this machine.
fn fake_ssh(story: &Story, bare: &std::path::Path) -> String {
    use std::os::unix::fs::PermissionsExt;
    let bin = story.home.path("bin");
    std::fs::create_dir_all(&bin).unwrap();
    let script = format!(
        "#!/bin/sh\nssh-add -l >> {}\nfor last; do :; done\nexec sh -c \"$(echo \"$last\" | sed \"s#'app.git'#'{}'#\")\"\n",
        story.home.arg("keys"),
        bare.display()
    );
    std::fs::write(bin.join("ssh"), script).unwrap();
    std::fs::set_permissions(bin.join("ssh"), PermissionsExt::from_mode(0o755)).unwrap();
    format!("{}:/usr/local/bin:/usr/bin:/bin", bin.display())
}

/// Git over ssh asks the agent that is forwarded: a key that the environment knows nothing of.
#[test]
fn git_of_an_add_asks_the_forwarded_agent() {
    let story = Story::new("FROM scratch\nADD git@example.test:app.git#main /src\n", &[]);
    let web = Web::start();
    web.repository("app").commit(&[("f", "one")]);
    let path = fake_ssh(&story, &web.path("app.git"));
    let made = key(&story.home.path("user"), "id", "");
    let ssh = format!("default={}", made.display());
    let (context, out) = (story.home.arg("context"), story.home.arg("out"));
    let build = |flags: &[&str]| {
        let fixed = ["build", "--progress", "plain", "-o", &out];
        let all = fixed.into_iter().chain(flags.iter().copied()).chain([context.as_str()]);
        let mut command = story.home.command(all);
        command.env("PATH", &path).env_remove("SSH_AUTH_SOCK");
        Running::start(command).finish(LONG)
    };
    build(&["--ssh", &ssh]).well();
    assert_eq!(text(&story, "src/f"), "one");
    let keys = std::fs::read_to_string(story.home.path("keys")).unwrap();
    assert!(keys.lines().all(|line| line.contains(&fingerprint(&made))), "{keys}");
    // Without the flag there is no agent to ask.
    std::fs::remove_file(story.home.path("keys")).unwrap();
    build(&["--no-cache"]).well();
    let keys = std::fs::read_to_string(story.home.path("keys")).unwrap();
    assert!(!keys.contains(&fingerprint(&made)), "{keys}");
}
