//! One user with a registry, some images in it and a folder to build.

use std::path::PathBuf;

use crate::base::{busybox, busybox_with};
use crate::files::{ContextEntry, write_context};
use crate::home::Home;
use crate::image::Image;
use crate::layout::{LayerTar, MadeImage};
use crate::progress::ran;
use crate::registry::Registry;
use crate::running::{Finished, Running};
use crate::wait::LONG;

/// A hello world of Go, built in one stage and copied to the other.
pub const GO: &str = include_str!("../../examples/hello-go/Dockerfile");

/// An application of Maven.
pub const MAVEN: &str = r#"FROM maven:3.9-eclipse-temurin-17 AS build
WORKDIR /app
COPY pom.xml .
COPY src ./src
RUN mvn -DskipTests package

FROM eclipse-temurin:17-jre-alpine
COPY --from=build /app/target/myapp-1.0.jar /app.jar
EXPOSE 8080
CMD ["java", "-jar", "/app.jar"]
"#;

/// Stands for Go's compiler: what it makes depends on the source alone.
const GO_PROGRAM: &str = r##"#!/bin/sh
set -e
[ "$1 $2" = "build -o" ] || { echo "go: unknown command: $*" >&2; exit 2; }
echo "compiling $4" >&2
{ echo '#!/bin/busybox sh'; echo "# $(sha256sum < "$4")"; grep -o '"hello.*"' "$4" | sed 's/^/echo /'; } > "$3"
chmod 755 "$3"
"##;

/// Stands for Maven: the jar holds the hashes of what it was made from.
const MAVEN_PROGRAM: &str = r#"#!/bin/sh
set -e
[ "$*" = "-DskipTests package" ] || { echo "mvn: $*" >&2; exit 1; }
mkdir -p target
{ sha256sum pom.xml; find src -type f | sort | xargs sha256sum; } > target/myapp-1.0.jar
"#;

fn program(path: &str, text: &str) -> MadeImage {
    busybox_with(LayerTar::default().file(path, 0o755, text.as_bytes()))
}

/// Fills a registry with the images that the stories stand on.
pub fn fill(registry: &Registry) {
    registry.put("library/busybox:golden", &busybox());
    registry.put("library/golang:1.24", &program("bin/go", GO_PROGRAM));
    registry.put("library/maven:3.9-eclipse-temurin-17", &program("bin/mvn", MAVEN_PROGRAM));
    registry.put("library/eclipse-temurin:17-jre-alpine", &program("bin/java", "#!/bin/sh\n"));
    let nginx = LayerTar::default().dir("etc/nginx", 0o755).file(
        "etc/nginx/nginx.conf",
        0o644,
        b"worker_processes auto;\n",
    );
    registry.put("library/nginx:1.25", &busybox_with(nginx));
}

/// The user.
#[derive(Debug)]
pub struct Story {
    /// The user's folders.
    pub home: Home,
    /// `docker.io`, as far as the user can tell.
    pub registry: Registry,
}

/// A build that ended well.
#[derive(Debug)]
pub struct Built {
    /// What it made.
    pub image: Image,
    /// The instructions that ran.
    pub ran: Vec<String>,
}

impl Built {
    /// Whether any instruction that ran has the text in its name.
    pub fn has_run(&self, text: &str) -> bool {
        self.ran.iter().any(|name| name.contains(text))
    }
}

impl Story {
    /// Begins with a Dockerfile and what lies around it.
    pub fn new(dockerfile: &str, files: &[(&str, &str)]) -> Story {
        let registry = Registry::start();
        fill(&registry);
        let story = Story { home: Home::new(&registry.as_docker_io()), registry };
        let dockerfile = [ContextEntry::file("Dockerfile", dockerfile)];
        let files = files.iter().map(|(path, text)| ContextEntry::file(path, text));
        let entries: Vec<ContextEntry> = dockerfile.into_iter().chain(files).collect();
        write_context(&story.context(), &entries);
        story
    }

    /// The build context.
    pub fn context(&self) -> PathBuf {
        self.home.path("context")
    }

    /// Writes a file of the context anew.
    pub fn write(&self, path: &str, text: &str) {
        std::fs::write(self.context().join(path), text).unwrap();
    }

    fn arguments(&self, output: &str, flags: &[&str]) -> Vec<String> {
        let output = format!("type=oci,dest={}", self.home.arg(output));
        let fixed = ["build", "--progress", "rawjson", "--output", &output];
        let context = self.home.arg("context");
        let all = fixed.into_iter().chain(flags.iter().copied()).chain([context.as_str()]);
        all.map(str::to_owned).collect()
    }

    /// Starts a build whose image goes to this file.
    pub fn start(&self, output: &str, flags: &[&str]) -> Running {
        self.home.start(self.arguments(output, flags))
    }

    /// Waits until a build has ended well, and reads its image.
    pub fn built(&self, output: &str, running: Running) -> Built {
        let done = running.finish(LONG).well();
        Built { image: Image::read_tar(&self.home.path(output)), ran: ran(&done.stderr) }
    }

    /// Builds.
    pub fn build(&self, flags: &[&str]) -> Built {
        self.built("image.tar", self.start("image.tar", flags))
    }

    /// Builds with the plain output, which may fail.
    pub fn try_build(&self, flags: &[&str]) -> Finished {
        let context = self.home.arg("context");
        let fixed = ["build", "--progress", "plain"];
        self.home.run(fixed.into_iter().chain(flags.iter().copied()).chain([context.as_str()]))
    }
}
