//! Commands of docker's that somebody types by habit and that dcbuild has not: what to do instead.

use crate::typed::Typed;

/// A command of docker's: its word, why it is not here, and what to do instead.
type Foreign = (&'static str, &'static str, &'static str);

const BUILDERS: &str = "dcbuild has no builders";
const NO_BUILDERS: &str = "`dcbuild build` builds on this machine, `dcbuild submit` on the cluster that \
                           DCBUILD_COORDINATOR names";
const DEBUGGER: &str = "dcbuild has no debugger";
const NO_DEBUGGER: &str = "--target builds up to a stage, whose image can be run";
const CONTAINERS: &str = "dcbuild builds images and runs none";
const NO_CONTAINERS: &str = "`dcbuild build --load` hands an image to docker, which runs it";

const NO_DAEMON: &str = "dcbuild has no daemon";
const CLUSTER: &str = "`dcbuild submit` builds on the cluster that DCBUILD_COORDINATOR names";
const AN_IMAGE: &str = "`dcbuild plan CONTEXT` shows the config that a build gives its image, `skopeo inspect docker://NAME` \
                        one of a registry";

/// Those that stand behind `docker`, with or without a word such as `image` between.
const OF_DOCKER: &[Foreign] = &[
    (
        "bake",
        "dcbuild builds one Dockerfile at a time, and reads no bake file",
        "run `dcbuild build` once for each target; `docker buildx bake --print` shows what each is built from",
    ),
    (
        "compose",
        "dcbuild reads no compose file",
        "run `dcbuild build -t IMAGE -f DOCKERFILE --load CONTEXT` for each service, then `docker compose up --no-build`",
    ),
    ("run", CONTAINERS, NO_CONTAINERS),
    ("exec", CONTAINERS, NO_CONTAINERS),
    (
        "push",
        "dcbuild pushes an image when it builds it",
        "`dcbuild build --push -t NAME CONTEXT`; what was built before comes from the cache",
    ),
    (
        "pull",
        "dcbuild pulls base images when a build needs them",
        "leave it out, or `skopeo copy` the image to where it is wanted",
    ),
    (
        "login",
        "dcbuild keeps no passwords",
        "`docker login`, or `skopeo login --authfile ~/.docker/config.json`: dcbuild reads that file, and its helpers",
    ),
    (
        "tag",
        "dcbuild names an image when it builds it",
        "`dcbuild build -t ONE -t OTHER CONTEXT`; what was built before comes from the cache",
    ),
    (
        "save",
        "dcbuild writes an archive when it builds an image",
        "`dcbuild build -t NAME -o type=docker,dest=FILE.tar CONTEXT`",
    ),
    (
        "load",
        "dcbuild reads no archives of images",
        "--build-context NAME=oci-layout://DIR lets a build stand on the image of a layout",
    ),
    (
        "history",
        "dcbuild does not list the layers of an image",
        "`dcbuild plan CONTEXT` shows the history that a build gives its image, before anything runs",
    ),
    (
        "manifest",
        "dcbuild makes an index when it builds the images",
        "`dcbuild build --platform A,B -t NAME --push CONTEXT`",
    ),
    (
        "info",
        NO_DAEMON,
        "`dcbuild doctor` says what this machine can build, `dcbuild workers` lists those of a cluster",
    ),
    ("inspect", "dcbuild does not take images apart", AN_IMAGE),
    (
        "context",
        NO_DAEMON,
        "DOCKER_CONTEXT and `docker context use` say which docker --load hands an image to",
    ),
    (
        "scout",
        "dcbuild does not judge what an image holds",
        "`dcbuild build --sbom=true --push -t NAME CONTEXT` lists what is in it, for a scanner to judge",
    ),
    (
        "sbom",
        "dcbuild lists what an image holds when it builds it",
        "`dcbuild build --sbom=true --push -t NAME CONTEXT`",
    ),
    (
        "cp",
        CONTAINERS,
        "`dcbuild build -o DIR CONTEXT` writes the files of an image, or of a stage with --target",
    ),
    (
        "export",
        CONTAINERS,
        "`dcbuild build -o type=tar,dest=FILE.tar CONTEXT` writes the files of an image",
    ),
    (
        "import",
        "dcbuild makes images from Dockerfiles",
        "FROM scratch and ADD FILE.tar / make an image of an archive",
    ),
    (
        "commit",
        "dcbuild makes images from Dockerfiles",
        "write what was done as RUN lines, which `dcbuild build` repeats",
    ),
    (
        "logout",
        "dcbuild keeps no passwords",
        "`docker logout`, or take the registry out of ~/.docker/config.json",
    ),
    (
        "search",
        "dcbuild does not look into registries",
        "`skopeo list-tags docker://NAME` lists the tags of an image",
    ),
    ("trust", "dcbuild signs nothing", "name base images by their digest"),
    ("create", CONTAINERS, NO_CONTAINERS),
    ("start", CONTAINERS, NO_CONTAINERS),
    ("stop", CONTAINERS, NO_CONTAINERS),
    ("kill", CONTAINERS, NO_CONTAINERS),
    (
        "rm",
        CONTAINERS,
        "`dcbuild rmi NAME` takes a name away from an image, `dcbuild prune` what is left over",
    ),
    ("wait", CONTAINERS, NO_CONTAINERS),
    ("top", CONTAINERS, NO_CONTAINERS),
    ("stats", CONTAINERS, NO_CONTAINERS),
    ("port", CONTAINERS, NO_CONTAINERS),
    ("diff", CONTAINERS, NO_CONTAINERS),
    ("events", NO_DAEMON, "`dcbuild attach ID` follows a build of a cluster"),
    ("network", CONTAINERS, NO_CONTAINERS),
    (
        "volume",
        CONTAINERS,
        "`dcbuild du --verbose` lists cache mounts, `dcbuild prune --filter type=exec.cachemount` removes them",
    ),
    ("swarm", CONTAINERS, CLUSTER),
    ("node", CONTAINERS, CLUSTER),
    ("service", CONTAINERS, CLUSTER),
    ("stack", CONTAINERS, CLUSTER),
    ("plugin", NO_DAEMON, "leave it out"),
];

/// Those that only stand behind `docker buildx`.
const OF_BUILDX: &[Foreign] = &[
    ("create", BUILDERS, NO_BUILDERS),
    ("use", BUILDERS, NO_BUILDERS),
    ("rm", BUILDERS, NO_BUILDERS),
    ("stop", BUILDERS, NO_BUILDERS),
    ("ls", BUILDERS, "`dcbuild workers` lists the workers of a cluster"),
    ("inspect", BUILDERS, "`dcbuild doctor` says what this machine can build"),
    ("install", BUILDERS, "`alias docker=dcbuild` puts it in docker's place"),
    (
        "imagetools",
        "dcbuild makes images and does not copy them",
        "`dcbuild build --platform A,B -t NAME --push CONTEXT` makes one index of several platforms; `skopeo copy` copies",
    ),
    (
        "history",
        "dcbuild keeps no such history",
        "`dcbuild explain` says what became of the steps of a build, `dcbuild ps -a` lists the builds of a cluster",
    ),
    ("debug", DEBUGGER, NO_DEBUGGER),
    ("dap", DEBUGGER, NO_DEBUGGER),
    (
        "policy",
        "dcbuild asks policies in builds only",
        "`dcbuild plan --progress plain --policy log-level=debug .` shows what each sees and says, and runs nothing",
    ),
];

/// Words of docker's behind which others of its commands stand.
const GROUPS: [&str; 5] = ["buildx", "builder", "image", "container", "system"];

/// What is said where the command line is one of docker's; nothing where it may be one of ours.
pub(crate) fn said_of(typed: &Typed) -> Option<String> {
    let mut words = typed.command().peekable();
    let group = words.next_if(|word| GROUPS.contains(word));
    let command = words.next().unwrap_or_default();
    let of_buildx = if group == Some("buildx") { OF_BUILDX } else { &[] };
    let found = of_buildx.iter().chain(OF_DOCKER).find(|(word, ..)| *word == command);
    let typed = format!("{} {command}", group.unwrap_or_default());
    let typed = typed.trim();
    match found {
        Some((_, why, instead)) => {
            Some(format!("error: there is no `dcbuild {typed}`: {why}\nhint: {instead}\n"))
        }
        None => group.map(|_| {
            format!(
                "error: there is no `dcbuild {typed}`\n\
                 hint: `dcbuild help` lists the commands; of docker's, build, prune, du and images are understood\n"
            )
        }),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;
    use crate::args::Arguments;

    fn said(line: &str) -> Option<String> {
        let words = std::iter::once("dcbuild").chain(line.split_whitespace());
        said_of(&Typed::read(words.map(Into::into).collect()))
    }

    #[test]
    fn a_command_of_dockers_says_what_to_do_instead() {
        for (line, begin) in [
            ("bake", "error: there is no `dcbuild bake`: dcbuild builds one Dockerfile at a time"),
            ("buildx bake -f x.hcl app", "error: there is no `dcbuild buildx bake`: "),
            ("compose build web", "error: there is no `dcbuild compose`: dcbuild reads no compose"),
            ("buildx create --use", "error: there is no `dcbuild buildx create`: dcbuild has no"),
            ("buildx imagetools create -t a b", "error: there is no `dcbuild buildx imagetools`"),
            ("push app", "error: there is no `dcbuild push`: dcbuild pushes an image"),
            ("image push app", "error: there is no `dcbuild image push`: "),
            ("buildx", "error: there is no `dcbuild buildx`\nhint: `dcbuild help` lists"),
            ("info", "error: there is no `dcbuild info`: dcbuild has no daemon"),
            ("inspect app", "error: there is no `dcbuild inspect`: "),
            ("context use x", "error: there is no `dcbuild context`: "),
            ("scout cves app", "error: there is no `dcbuild scout`: "),
            ("cp c:/x .", "error: there is no `dcbuild cp`: "),
            ("container rm x", "error: there is no `dcbuild container rm`: "),
            ("buildx --builder x ls", "error: there is no `dcbuild buildx ls`: "),
            ("--config x bake", "error: there is no `dcbuild bake`: "),
            ("--tlscacert=/ca bake", "error: there is no `dcbuild bake`: "),
            ("buildx nothing", "error: there is no `dcbuild buildx nothing`\nhint: "),
        ] {
            let said = said(line).unwrap_or_default();
            assert!(said.starts_with(begin), "{line}: {said}");
            assert!(said.lines().count() == 2 && said.contains("\nhint: "), "{said}");
        }
    }

    #[test]
    fn no_command_of_ours_is_taken_for_one_of_dockers() {
        for command in Arguments::command().get_subcommands() {
            assert_eq!(said(command.get_name()), None);
        }
        for line in ["", "--help", "build .", "biuld .", "-t x", "--config x build"] {
            assert_eq!(said(line), None, "{line}");
        }
    }
}
