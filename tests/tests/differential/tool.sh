#!/bin/sh
# Stands for the tools of projects: says what it was asked, and leaves what they leave.
set -e
tool=${0##*/}
echo "$tool $*" >> /var/log/tools
out= before=
for word; do
    case "$before" in -o | -O | --recipe-path | --wheel-dir) out=$word ;; esac
    before=$word
done
make() {
    for file; do
        mkdir -p "$(dirname "$file")"
        echo "$tool" > "$file"
    done
}
account() {
    user= uid=990 gid= home= makes=
    while [ $# -gt 0 ]; do
        case "$1" in
        -g | --gid | -G | --ingroup) gid=$2; shift ;;
        -u | --uid) uid=$2; shift ;;
        -d | --home | --home-dir) home=$2; shift ;;
        -s | --shell | --comment | --gecos) shift ;;
        --gid=*) gid=${1#*=} ;;
        --uid=*) uid=${1#*=} ;;
        --home-dir=*) home=${1#*=} ;;
        -m | --create-home) makes=1 ;;
        -*) ;;
        *) user=$1 ;;
        esac
        shift
    done
}
group() { grep "^$1:" /etc/group | cut -d: -f3; }
case "$tool $1" in
"dpkg-architecture "*) echo amd64 ;;
"install -d")
    [ "$2 $4 $6" = "-o -g -m" ]
    mkdir -p "$8" && chown "$3:$5" "$8" && chmod "$7" "$8" ;;
"apt-get update") make /var/lib/apt/lists/list ;;
"apt-get install" | "apk add")
    for word; do
        case "$word" in -* | install | add) ;; *) make "/usr/share/doc/$word" ;; esac
    done ;;
"groupadd "* | "addgroup "*)
    account "$@"
    echo "$user:x:${gid:-$uid}:" >> /etc/group ;;
"useradd "* | "adduser "*)
    account "$@"
    case "$gid" in *[!0-9]*) gid=$(group "$gid") ;; esac
    gid=${gid:-$uid} home=${home:-/home/$user}
    echo "$user:x:$uid:$gid::$home:/bin/sh" >> /etc/passwd
    [ -n "$(group "$user")" ] || echo "$user:x:$gid:" >> /etc/group
    if [ -n "$makes" ]; then mkdir -p "$home" && chown "$uid:$gid" "$home"; fi ;;
"npm ci" | "npm install" | "yarn install" | "yarn --frozen-lockfile") make node_modules/.bin/next node_modules/react/index.js ;;
"npm run" | "yarn build") make dist/app.js public/index.html .next/standalone/server.js .next/static/app.js ;;
"go mod") make /go/pkg/mod/module ;;
"go build" | "curl "*) make "$out" ;;
"cargo chef") make "${out:-recipe.json}" target/release/deps/dependency ;;
"cargo build") make target/release/app ;;
"mvn "*) make /root/.m2/settings target/app.jar ;;
"pip wheel") make "$out/one.whl" ;;
"pip install") make /usr/local/lib/python/package /root/.cache/pip/cached ;;
"bundle install") make /usr/local/bundle/ruby/3.2/cache/gem /usr/local/bundle/ruby/3.2/gems/gem ;;
"bundle exec") make public/assets/app.css ;;
"composer install") make vendor/autoload.php ;;
esac
