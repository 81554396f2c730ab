//! Containerfiles, built by the real buildah from a base that is a tree of ours: no registry is asked.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use fs_err as fs;
use stoke_api::objects::{ContainerfileSource, ImageSource, ImageSpec};
use stoke_api::workload::ImageBuildConfig;
use stoke_image::{Progress, build};
use tar::EntryType;

use crate::builds::{User, config, tools};
use crate::trees::{KERNEL, Tar, Yard, from, from_tree, lower};
use crate::world::{run, text};

/// A base with a shell: busybox and the libraries that it says it needs.
fn base() -> Vec<u8> {
    let busybox = fs::read("/bin/busybox").expect("busybox must be installed for this test");
    let mut tar = lower().folder("bin").folder("dev").folder("proc").folder("sys").folder("run");
    tar = tar.file("bin/busybox", 0o755, &busybox);
    for applet in ["sh", "cat", "cp", "mkdir", "rm", "chown", "id", "ls", "test", "touch", "ln"] {
        tar = tar.link(EntryType::Symlink, &format!("bin/{applet}"), "busybox");
    }
    let needed = run("ldd", &["/bin/busybox"]);
    let libraries = needed.split_whitespace().filter(|word| word.starts_with('/'));
    for library in libraries {
        let content = fs::read(library).unwrap();
        // Where the loader looks: the tree's own /lib is a link to usr/lib.
        let path = library.trim_start_matches('/');
        let path = path.strip_prefix("lib/").map_or(path.to_owned(), |rest| format!("usr/lib/{rest}"));
        tar = tar.file(&path, 0o755, &content);
    }
    tar.file(&format!("boot/vmlinuz-{KERNEL}"), 0o644, &[0x90; 5000]).end()
}

/// A folder with a Containerfile and what it copies.
fn write_context(folder: &Path, containerfile: &str, files: &[(&str, &str)]) {
    fs::create_dir_all(folder).unwrap();
    fs::write(folder.join("Containerfile"), containerfile).unwrap();
    for (name, content) in files {
        fs::write(folder.join(name), content).unwrap();
    }
}

fn containerfile(folder: &Path) -> ContainerfileSource {
    let bases = BTreeMap::from([("node".to_owned(), "base".parse().unwrap())]);
    ContainerfileSource { path: folder.join("Containerfile"), bases, ..ContainerfileSource::default() }
}

fn spec_of(source: ContainerfileSource) -> ImageSpec {
    from(ImageSource { containerfile: Some(source), ..ImageSource::default() })
}

/// With the base beside it, as whoever reads the objects gives it.
fn with_base(store: &Path, base: &Path, source: ContainerfileSource) -> ImageBuildConfig {
    let bases = BTreeMap::from([("default/base".to_owned(), from_tree(base))]);
    ImageBuildConfig { bases, ..config(store, spec_of(source)) }
}

const STAGES: &str = "\
ARG WORD=unset
FROM node AS builder
RUN mkdir -p /out && echo built > /out/module && chown 7:8 /out/module
FROM node
ARG WORD
ENV LANG=C
COPY greeting /etc/greeting
COPY --from=builder /out/module /usr/lib/modules/6.1.0-test/extra.ko
RUN test -x /usr/sbin/policy-rc.d && rm /etc/removed && echo \"$WORD in $INITRD\" > /etc/word && ln /etc/word /etc/word2
FROM node AS unused
RUN exit 1
";

fn staged(folder: &Path, word: &str) -> ContainerfileSource {
    write_context(folder, STAGES, &[("greeting", "hello\n")]);
    let build_args = BTreeMap::from([("WORD".to_owned(), word.to_owned())]);
    // The middle stage has no name but its number.
    ContainerfileSource { build_args, target: Some("1".to_owned()), ..containerfile(folder) }
}

#[test]
fn stages_arguments_and_bases_make_one_root_whoever_builds() {
    let yard = Yard::new();
    let base = yard.write("base.tar", &base());
    let mut stages = Vec::new();
    let config = with_base(&yard.path("images"), &base, staged(&yard.path("context"), "a word"));
    let mut hear = |progress: Progress| {
        if stages.last() != Some(&progress.stage) {
            stages.push(progress.stage);
        }
    };
    let image = build(&config, &tools(yard.dir.path()), &mut hear).unwrap();
    assert!(stages.contains(&"base node: read the tree".to_owned()), "{stages:?}");
    assert!(stages.iter().any(|stage| stage.contains("step 2/2: RUN mkdir -p /out")), "{stages:?}");
    assert_eq!(image.kernel_version, KERNEL);
    let listing = yard.listing(&image);
    assert_eq!(yard.content(&image, "etc/word"), "a word in No\n");
    assert_eq!(yard.content(&image, "etc/word2"), "a word in No\n");
    assert_eq!(yard.content(&image, "etc/greeting"), "hello\n");
    assert_eq!(listing[&format!("usr/lib/modules/{KERNEL}/extra.ko")].1, "7/8");
    for gone in ["etc/removed", "usr/sbin/policy-rc.d", "out"] {
        assert_eq!(listing.get(gone), None, "{gone}");
    }
    assert_eq!(fs::read_dir(yard.path("images/tmp")).unwrap().count(), 0);
    changed_files_are_built_on_what_is_there(&yard, &base, &image.digest.to_string());
    an_ordinary_user_builds_the_same(&yard, &base, &image.digest.to_string());
}

/// A word of the last step changes: the first stage comes from the cache of layers. Then back, and by another store in another
/// place with files of another time: the same image each time.
fn changed_files_are_built_on_what_is_there(yard: &Yard, base: &Path, digest: &str) {
    let images = yard.path("images");
    let changed = with_base(&images, base, staged(&yard.path("context"), "another"));
    let built = yard.build(&changed).unwrap();
    assert_eq!(yard.content(&built, "etc/word"), "another in No\n");
    assert_ne!(built.digest.to_string(), digest);
    let elsewhere = yard.path("elsewhere");
    let again = with_base(&elsewhere.join("images"), base, staged(&elsewhere.join("else"), "a word"));
    run("touch", &["-d", "2001-02-03", text(&elsewhere.join("else/greeting"))]);
    assert_eq!(yard.build(&again).unwrap().digest.to_string(), digest, "another store makes another image");
}

/// Not a test of its own: what [`an_ordinary_user_builds_the_same`] runs as somebody else.
#[test]
#[ignore = "run by stages_arguments_and_bases_make_one_root_whoever_builds"]
fn helper_that_builds_a_containerfile_as_somebody_else() {
    let Ok(dir) = std::env::var("STOKE_IMAGE_TEST_DIR").map(std::path::PathBuf::from) else { return };
    let config = with_base(&dir.join("images"), &dir.join("base.tar"), staged(&dir.join("context"), "a word"));
    let image = build(&config, &tools(&dir), &mut |_| {}).unwrap();
    println!("DIGEST {}", image.digest);
    let images = dir.join("images");
    assert_eq!(fs::read_dir(images.join("tmp")).unwrap().count(), 0);
    // buildah's storage has files of subordinate ids.
    assert!(images.join("cache/containers/storage").exists());
    stoke_image::store::remove_tree(&images).unwrap();
    assert!(!images.exists());
}

fn an_ordinary_user_builds_the_same(yard: &Yard, base: &Path, digest: &str) {
    let user = User::make("cf");
    let home = yard.path("home");
    fs::create_dir(&home).unwrap();
    run("cp", &[text(base), text(&home.join("base.tar"))]);
    let test = home.join("test");
    run("cp", &[text(&std::env::current_exe().unwrap()), text(&test)]);
    run("chown", &["-R", &user.name, text(&home)]);
    run("chmod", &["700", text(&home)]);
    run("chmod", &["755", text(yard.dir.path())]);
    let output = Command::new("setpriv")
        .args(["--reuid", &user.name, "--regid", &user.name, "--init-groups"])
        .arg(&test)
        .args(["--exact", "containerfiles::helper_that_builds_a_containerfile_as_somebody_else"])
        .args(["--ignored", "--nocapture"])
        .env("STOKE_IMAGE_TEST_DIR", &home)
        .env("HOME", &home)
        .current_dir(&home)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains(&format!("DIGEST {digest}")), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(!home.join("images").exists(), "{said}");
}

#[test]
fn what_is_wrong_is_told_by_its_step_or_its_field() {
    let yard = Yard::new();
    let base = yard.write("base.tar", &base());
    let folder = yard.path("context");
    let images = yard.path("images");
    let field = "spec.source.containerfile.path";
    let failing = |text: &str| {
        write_context(&folder, text, &[]);
        let error = yard.build(&with_base(&images, &base, containerfile(&folder))).unwrap_err();
        assert_eq!(error.field(), Some(field), "{error}");
        assert_eq!(fs::read_dir(images.join("tmp")).unwrap().count(), 0);
        assert!(stoke_image::Store::open(&images).unwrap().list().unwrap().is_empty());
        error.to_string()
    };
    let said = failing("FROM node\nRUN echo no such driver; exit 7\n");
    assert!(said.contains("step \"RUN echo no such driver; exit 7\" failed (exit status 7)"), "{said}");
    assert!(said.contains("no such driver"), "{said}");
    let said = failing("FROM node\nCOPY missing /\n");
    assert!(said.contains("COPY missing /") && said.contains("no such file"), "{said}");
    let said = failing("FROM node\nRNU ls\n");
    assert!(said.to_lowercase().contains("rnu"), "{said}");
    let said = failing("FROM 127.0.0.1:9/nowhere\n");
    assert!(said.contains("127.0.0.1:9"), "{said}");
}

#[test]
fn bases_that_are_not_there_are_told_by_the_name_behind_from() {
    let yard = Yard::new();
    let folder = yard.path("context");
    write_context(&folder, "FROM node\n", &[]);
    let field = "spec.source.containerfile.bases.node";
    let alone = config(&yard.path("images"), spec_of(containerfile(&folder)));
    assert_eq!(yard.refused_config(&alone, field), "there is no image default/base");
    let unreadable = with_base(&yard.path("images"), &yard.path("nowhere.tar"), containerfile(&folder));
    let said = yard.refused_config(&unreadable, field);
    assert!(said.contains("nowhere.tar") && said.contains("spec.source.tree.path"), "{said}");
    let evil = yard.write("evil.tar", &Tar::new().raw(EntryType::Regular, "../x", b"").end());
    let said = yard.refused_config(&with_base(&yard.path("images"), &evil, containerfile(&folder)), field);
    assert!(said.contains("leads out of the tree"), "{said}");
}
