//! Small projects of many shapes, whose steps make the same bytes wherever and whenever they run.

/// A folder to build, and a change that somebody makes to it.
#[derive(Clone, Copy, Debug)]
pub struct Project {
    /// What it is about.
    pub name: &'static str,
    /// Its Dockerfile.
    pub dockerfile: &'static str,
    /// The other files, by path.
    pub files: &'static [(&'static str, &'static str)],
    /// The file that changes, and its new text.
    pub change: (&'static str, &'static str),
    /// Flags of the build.
    pub flags: &'static [&'static str],
    /// What no step that the change makes run has in its name.
    pub spared: &'static [&'static str],
}

const PLAIN: Project = Project {
    name: "",
    dockerfile: "",
    files: &[("in.txt", "one\n")],
    change: ("in.txt", "two\n"),
    flags: &[],
    spared: &[],
};

/// Twenty of them.
pub const PROJECTS: &[Project] = &[
    Project { name: "one file on nothing", dockerfile: "FROM scratch\nCOPY in.txt /\n", ..PLAIN },
    Project {
        name: "a command that reads a file",
        dockerfile: "FROM busybox:golden\nCOPY in.txt /in\nRUN cat /in /in > /out\n",
        ..PLAIN
    },
    Project {
        name: "a compiler stage",
        dockerfile: "FROM golang:1.24 AS build\nWORKDIR /src\nCOPY main.go .\n\
            RUN go build -o /bin/hello ./main.go\nFROM scratch\nCOPY --from=build /bin/hello /hello\n",
        files: &[("main.go", "package main // \"hello one\"\n")],
        change: ("main.go", "package main // \"hello two\"\n"),
        ..PLAIN
    },
    Project {
        name: "dependencies before sources",
        dockerfile: "FROM busybox:golden AS deps\nCOPY lock /\nRUN sha256sum /lock > /deps\n\
            FROM deps AS build\nCOPY src /src\nRUN cat /deps /src/* > /app\n\
            FROM busybox:golden\nCOPY --from=build /app /app\n",
        files: &[("lock", "a=1\n"), ("src/a", "a\n"), ("src/b", "b\n")],
        change: ("src/b", "another b\n"),
        spared: &["COPY lock", "sha256sum"],
        ..PLAIN
    },
    Project {
        name: "dependencies that change",
        dockerfile: "FROM busybox:golden AS deps\nCOPY lock /\nRUN sha256sum /lock > /deps\n\
            FROM deps\nCOPY src /src\nRUN cat /deps /src/* > /app\n",
        files: &[("lock", "a=1\n"), ("src/a", "a\n")],
        change: ("lock", "a=2\n"),
        ..PLAIN
    },
    Project {
        name: "a diamond of stages",
        dockerfile: "FROM busybox:golden AS base\nCOPY in.txt /in\n\
            FROM base AS left\nRUN cp /in /left\nFROM base AS right\nRUN rev /in > /right\n\
            FROM scratch\nCOPY --from=left /left /\nCOPY --from=right /right /\n",
        ..PLAIN
    },
    Project {
        name: "a change that a stage swallows",
        dockerfile: "FROM busybox:golden AS count\nCOPY in.txt /\nRUN wc -l < /in.txt > /lines\n\
            FROM busybox:golden\nCOPY --from=count /lines /\nRUN cat /lines /lines > /twice\n",
        spared: &["COPY --from", "cat /lines"],
        ..PLAIN
    },
    Project {
        name: "an ignored file changes",
        dockerfile: "FROM busybox:golden\nCOPY . /all\nRUN find /all -type f | sort > /list\n",
        files: &[(".dockerignore", "*.log\n!kept.log\n"), ("a.log", "1\n"), ("kept.log", "2\n")],
        change: ("a.log", "changed\n"),
        spared: &["COPY", "RUN"],
        ..PLAIN
    },
    Project {
        name: "a pattern takes a folder",
        dockerfile: "FROM busybox:golden\nCOPY --parents */src/*.c /\nRUN cat /*/src/*.c > /all.c\n",
        files: &[("a/src/a.c", "a\n"), ("b/src/b.c", "b\n"), ("b/src/b.h", "h\n")],
        change: ("b/src/b.c", "bb\n"),
        ..PLAIN
    },
    Project {
        name: "a file that no pattern takes",
        dockerfile: "FROM busybox:golden\nCOPY --exclude=*.md docs /docs\nRUN ls /docs > /list\n",
        files: &[("docs/a.txt", "a\n"), ("docs/b.md", "b\n")],
        change: ("docs/b.md", "c\n"),
        spared: &["COPY", "RUN"],
        ..PLAIN
    },
    Project {
        name: "owners and rights",
        dockerfile: "FROM busybox:golden\nCOPY --chown=7:8 --chmod=640 in.txt /a\n\
            COPY --link --chown=9 in.txt /b/c\nRUN stat -c '%u %g %a' /a /b/c > /said\n",
        ..PLAIN
    },
    Project {
        name: "links and removed files",
        dockerfile: "FROM busybox:golden\nCOPY in.txt /d/in\nRUN ln /d/in /d/hard && ln -s in /d/soft\n\
            RUN rm /d/in && mkdir /e && mv /d/soft /e/\n",
        ..PLAIN
    },
    Project {
        name: "a bind mount from a stage",
        dockerfile: "FROM busybox:golden AS make\nCOPY in.txt /made/in\nRUN cp /made/in /made/more\n\
            FROM busybox:golden\nRUN --mount=type=bind,from=make,source=/made,target=/m cat /m/* > /out\n",
        ..PLAIN
    },
    Project {
        name: "a bind mount of the context",
        dockerfile: "FROM busybox:golden\n\
            RUN --mount=type=bind,target=/m sha256sum /m/in.txt > /sum && mkdir -p /m\n",
        ..PLAIN
    },
    Project {
        name: "a cache mount that changes nothing",
        dockerfile: "FROM busybox:golden\nCOPY in.txt /in\nRUN --mount=type=cache,target=/c \
            test -e /c/seen || touch /c/seen; cp /in /out\n",
        ..PLAIN
    },
    Project {
        name: "arguments and the environment",
        dockerfile: "ARG WHO=nobody\nFROM busybox:golden\nARG WHO\nENV NAME=${WHO:-x}-${WHO#n}\n\
            COPY in.txt /in\nRUN echo \"$NAME\" > /name && cat /in >> /name\nLABEL who=$WHO\n",
        flags: &["--build-arg", "WHO=nina"],
        ..PLAIN
    },
    Project {
        name: "heredocs",
        dockerfile: "FROM busybox:golden\nCOPY <<A <<B /h/\none\nA\ntwo\nB\nCOPY in.txt /in\n\
            RUN <<E\nset -e\ncat /h/A /h/B /in > /all\nE\n",
        ..PLAIN
    },
    Project {
        name: "another image's file",
        dockerfile: "FROM busybox:golden\nCOPY --from=nginx:1.25 /etc/nginx/nginx.conf /n.conf\n\
            COPY in.txt /in\nRUN cat /n.conf /in > /both\n",
        ..PLAIN
    },
    Project {
        name: "another user in another folder",
        dockerfile: "FROM busybox:golden\nRUN mkdir -m 777 /home\nUSER 1000:1000\nWORKDIR /home/w\n\
            USER 0\nRUN chmod 777 /home/w\nUSER 1000\nCOPY --chown=1000 in.txt .\n\
            RUN id -u > who && cp in.txt out.txt\n",
        ..PLAIN
    },
    Project {
        name: "stages that nobody needs",
        dockerfile: "FROM busybox:golden AS lost\nRUN exit 1\nFROM busybox:golden AS base\nWORKDIR /w\n\
            COPY in.txt .\nFROM base AS tested\nRUN false\nFROM base\nRUN tr a-z A-Z < in.txt > out\n\
            EXPOSE 80\nCMD [\"cat\", \"out\"]\n",
        spared: &["exit 1", "false"],
        ..PLAIN
    },
];
