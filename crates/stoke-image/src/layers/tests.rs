//! Layers as people and strangers make them.

use std::collections::BTreeMap;

use tar::{Builder, EntryType, Header};

use super::*;

/// An entry of a layer in short.
enum E {
    Folder(&'static str),
    File(&'static str, &'static str),
    Link(&'static str, &'static str),
    Hard(&'static str, &'static str),
    Device(&'static str, EntryType, u32, u32),
}
use E::{Device, File, Folder, Hard, Link};

fn blank() -> Header {
    let mut header = Header::new_gnu();
    header.set_mode(0o755);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1000);
    header.set_size(0);
    header
}

/// Names as they are written, whatever they are: the library that writes archives would refuse some.
fn raw(header: &mut Header, name: &str, target: &str) {
    let bytes = header.as_old_mut();
    bytes.name[..name.len()].copy_from_slice(name.as_bytes());
    bytes.linkname[..target.len()].copy_from_slice(target.as_bytes());
    header.set_cksum();
}

fn archive(entries: &[E]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for entry in entries {
        let mut header = blank();
        let (name, kind, target, content) = match entry {
            Folder(name) => (*name, EntryType::Directory, "", ""),
            File(name, content) => (*name, EntryType::Regular, "", *content),
            Link(name, target) => (*name, EntryType::Symlink, *target, ""),
            Hard(name, target) => (*name, EntryType::Link, *target, ""),
            Device(name, kind, major, minor) => {
                header.set_device_major(*major).unwrap();
                header.set_device_minor(*minor).unwrap();
                (*name, *kind, "", "")
            }
        };
        header.set_entry_type(kind);
        header.set_size(content.len() as u64);
        raw(&mut header, name, target);
        builder.append(&header, content.as_bytes()).unwrap();
    }
    builder.into_inner().unwrap()
}

fn layer(content: Vec<u8>) -> Layer {
    let size = content.len() as u64;
    let open = move || -> io::Result<Box<dyn Read>> { Ok(Box::new(io::Cursor::new(content.clone()))) };
    Layer { open: Box::new(open), stored: None, archive: None, size, built_from: ANY_TIME }
}

fn flat(layers: &[Layer], limits: &Limits) -> Result<Vec<u8>, LayerError> {
    let mut out = Vec::new();
    flatten(layers, limits, &mut out, &mut |_| {})?;
    Ok(out)
}

/// The tree as text: name -> kind and content.
fn tree(layers: &[&[E]]) -> Result<BTreeMap<String, String>, LayerError> {
    let layers: Vec<Layer> = layers.iter().map(|entries| layer(archive(entries))).collect();
    Ok(shown(&flat(&layers, &Limits::default())?))
}

fn shown(archive: &[u8]) -> BTreeMap<String, String> {
    let mut archive = tar::Archive::new(archive);
    let mut shown = BTreeMap::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().to_string_lossy().into_owned();
        let target = entry.link_name().unwrap().map(|target| target.to_string_lossy().into_owned()).unwrap_or_default();
        let text = match entry.header().entry_type() {
            EntryType::Directory => "folder".to_owned(),
            EntryType::Symlink => format!("-> {target}"),
            EntryType::Link => format!("= {target}"),
            EntryType::Char | EntryType::Block => "device".to_owned(),
            _ => {
                let mut content = Vec::new();
                entry.read_to_end(&mut content).unwrap();
                String::from_utf8_lossy(&content).into_owned()
            }
        };
        let name = name.trim_end_matches('/').to_owned();
        assert!(shown.insert(name.clone(), text).is_none(), "{name} is there twice");
    }
    shown
}

fn assert_tree(layers: &[&[E]], expected: &[(&str, &str)]) {
    let expected: BTreeMap<String, String> =
        expected.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
    assert_eq!(tree(layers).unwrap(), expected);
}

fn refused(layers: &[&[E]]) -> String {
    tree(layers).unwrap_err().to_string()
}

#[test]
fn upper_layers_replace_what_is_below_and_folders_keep_their_children() {
    let lower = [Folder("etc/"), File("etc/a", "old"), File("etc/b", "stays"), File("x", "a file")];
    let upper = [Folder("etc"), File("./etc/a", "new"), Folder("x"), File("x/y", "below")];
    let expected = [("etc", "folder"), ("etc/a", "new"), ("etc/b", "stays"), ("x", "folder"), ("x/y", "below")];
    assert_tree(&[&lower, &upper], &expected);
}

#[test]
fn whiteouts_hide_lower_layers_only() {
    let lower = [File("d/gone", "1"), File("d/kept", "2"), File("deep/a/b", "3")];
    let upper = [File("d/.wh.gone", ""), File("d/fresh", "4"), File("d/.wh.fresh", ""), File(".wh.deep", "")];
    assert_tree(&[&lower, &upper], &[("d", "folder"), ("d/kept", "2"), ("d/fresh", "4")]);
}

#[test]
fn an_opaque_folder_keeps_what_its_own_layer_has_wherever_the_marker_stands() {
    let lower = [File("d/old", "1"), File("d/sub/old", "2"), File("d/sub/other", "3")];
    let upper = [File("d/new", "4"), File("d/sub/new", "5"), File("d/.wh..wh..opq", ""), File("d/late", "6")];
    let expected = [("d", "folder"), ("d/new", "4"), ("d/sub", "folder"), ("d/sub/new", "5"), ("d/late", "6")];
    assert_tree(&[&lower, &upper], &expected);
}

#[test]
fn what_a_whiteout_hides_may_come_back_in_a_later_layer() {
    let layers: [&[E]; 3] = [&[File("a", "1")], &[File(".wh.a", "")], &[File("a", "3")]];
    assert_tree(&layers, &[("a", "3")]);
}

#[test]
fn hard_links_keep_their_content_when_the_first_name_goes() {
    let lower = [File("a", "content"), Hard("b", "a"), Hard("c", "./a")];
    assert_tree(&[&lower], &[("a", "content"), ("b", "= a"), ("c", "= a")]);
    assert_tree(&[&lower, &[File("a", "other")]], &[("a", "other"), ("b", "content"), ("c", "= b")]);
    assert_tree(&[&lower, &[File(".wh.a", ""), File(".wh.b", "")]], &[("c", "content")]);
    assert_tree(&[&[File("a", "1")], &[Hard("d/b", "a")]], &[("a", "1"), ("d", "folder"), ("d/b", "= a")]);
}

#[test]
fn names_go_through_links_as_a_process_would_whose_root_this_is() {
    let lower = [Folder("usr"), Folder("usr/lib"), Link("lib", "usr/lib"), Link("abs", "/usr/lib")];
    let upper = [File("lib/x", "1"), File("abs/y", "2")];
    let tree = tree(&[&lower, &upper]).unwrap();
    assert_eq!((tree["usr/lib/x"].as_str(), tree["usr/lib/y"].as_str()), ("1", "2"));
    assert_eq!(tree["lib"], "-> usr/lib");
}

#[test]
fn links_lead_nowhere_but_into_the_tree() {
    let tree =
        tree(&[&[Link("up", "../../../.."), File("up/etc/passwd", "x"), Link("abs", "/etc"), File("abs/shadow", "y")]]);
    let tree = tree.unwrap();
    assert_eq!((tree["etc/passwd"].as_str(), tree["etc/shadow"].as_str()), ("x", "y"));
}

#[test]
fn names_that_leave_are_refused() {
    for name in ["../x", "a/../../x", "/etc/passwd", "a/.."] {
        assert!(refused(&[&[File(name, "x")]]).contains("leads out of the tree"), "{name}");
    }
    assert!(refused(&[&[File("a", "1"), Hard("b", "../a")]]).contains("leads out"));
    assert!(refused(&[&[File("a", "1"), Hard("b", "/etc/shadow")]]).contains("leads out"));
}

#[test]
fn circles_and_links_to_nothing_are_told() {
    assert!(refused(&[&[Link("a", "b"), Link("b", "a"), File("a/x", "")]]).contains("circle"));
    assert!(refused(&[&[Hard("b", "nowhere")]]).contains("hard link to \"nowhere\""));
    assert!(refused(&[&[Folder("d"), Hard("b", "d")]]).contains("hard link"));
    assert!(refused(&[&[File("a", "x"), File("a/b", "y")]]).contains("no folder"));
}

#[test]
fn links_in_place_of_folders_that_later_stages_write_to_are_refused() {
    assert!(refused(&[&[Link("etc", "/root")]]).contains("\"etc/\""));
    assert!(refused(&[&[File("var", "")]]).contains("\"var/\""));
}

#[test]
fn devices_are_for_dev_and_harmless_ones_for_anywhere() {
    let disk = |name| [Device(name, EntryType::Block, 8, 0)];
    assert_eq!(tree(&[&disk("dev/sda")]).unwrap()["dev/sda"], "device");
    assert!(refused(&[&disk("home/sda")]).contains("(8:0)"));
    assert_eq!(tree(&[&[Device("chroot/dev/null", EntryType::Char, 1, 3)]]).unwrap()["chroot/dev/null"], "device");
    // What an overlay takes for a whiteout.
    assert!(refused(&[&[Device("etc/passwd", EntryType::Char, 0, 0)]]).contains("(0:0)"));
    // Gone again: nobody is harmed.
    assert!(tree(&[&disk("home/sda"), &[File("home/.wh.sda", "")]]).is_ok());
}

#[test]
fn another_content_than_was_promised_is_told() {
    let mut tampered = layer(archive(&[File("a", "evil")]));
    tampered.archive = Some(Digest([1; 32]));
    assert!(matches!(flat(&[tampered], &Limits::default()), Err(LayerError::Tampered { .. })));
    let mut tampered = layer(archive(&[File("a", "evil")]));
    tampered.stored = Some(Digest([1; 32]));
    assert!(matches!(flat(&[tampered], &Limits::default()), Err(LayerError::Tampered { .. })));
}

#[test]
fn a_bomb_is_stopped_by_its_ratio() {
    let zeros = vec![0; 4 << 20];
    let mut builder = Builder::new(Vec::new());
    let mut header = blank();
    header.set_size(zeros.len() as u64);
    builder.append_data(&mut header, "zeros", zeros.as_slice()).unwrap();
    let stored = zstd::encode_all(builder.into_inner().unwrap().as_slice(), 3).unwrap();
    let limits = Limits { free_ratio: 1 << 20, ..Limits::default() };
    let error = flat(&[layer(stored.clone())], &limits).unwrap_err().to_string();
    assert!(error.contains("more than 200 times"), "{error}");
    assert_eq!(flat(&[layer(stored)], &Limits::default()).map(|tree| tree.len() > 4 << 20).ok(), Some(true));
}

#[test]
fn bounds_hold_for_what_a_file_says_that_it_has() {
    let few = Limits { entries: 2, ..Limits::default() };
    let three = layer(archive(&[File("a", ""), File("b", ""), File("c", "")]));
    assert!(flat(&[three], &few).unwrap_err().to_string().contains("more than 2 entries"));
    let small = Limits { bytes: 4096, ..Limits::default() };
    let mut header = blank();
    header.set_size(1 << 40);
    raw(&mut header, "huge", "");
    let huge = layer(header.as_bytes().to_vec());
    assert!(flat(&[huge], &small).unwrap_err().to_string().contains("more than 4096 bytes"));
}

#[test]
fn a_name_of_megabytes_is_not_taken_into_memory() {
    let mut header = blank();
    header.set_entry_type(EntryType::GNULongName);
    header.set_size(8 << 20);
    raw(&mut header, "././@LongLink", "");
    let mut content = header.as_bytes().to_vec();
    content.resize(content.len() + (8 << 20), b'a');
    content.extend(archive(&[File("x", "")]));
    let error = flat(&[layer(content)], &Limits::default()).unwrap_err().to_string();
    assert!(error.contains("1 MiB"), "{error}");
}

#[test]
fn folders_in_folders_have_an_end() {
    // Each layer goes forty folders deeper, through a link to where the last one ended.
    let forty = "d/".repeat(40);
    let below: Vec<String> = (0..15).map(|number| format!("l{number}/{forty}")).collect();
    let names: Vec<String> = (1..15).map(|number| format!("l{number}")).collect();
    let mut layers = vec![layer(archive(&[Link("l0", "start"), Folder("start")]))];
    for (number, path) in below.iter().enumerate() {
        let next = names.get(number).map_or("end", String::as_str);
        layers.push(layer(raw_archive(path, next)));
    }
    let error = flat(&layers, &Limits::default()).unwrap_err().to_string();
    assert!(error.contains("folders in more than"), "{error}");
}

/// A folder, and a link to it under another name.
fn raw_archive(folder: &str, link: &str) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for (kind, name, target) in [(EntryType::Directory, folder, ""), (EntryType::Symlink, link, folder)] {
        let mut header = blank();
        header.set_entry_type(kind);
        header.set_size(0);
        raw(&mut header, name, target);
        builder.append(&header, io::empty()).unwrap();
    }
    builder.into_inner().unwrap()
}

#[test]
fn attributes_ship_but_not_those_of_overlays() {
    let mut builder = Builder::new(Vec::new());
    let attributes: [(&str, &[u8]); 3] = [
        ("SCHILY.xattr.security.capability", b"\x01\0\0\x02"),
        ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
        ("SCHILY.xattr.user.note", b"hello"),
    ];
    builder.append_pax_extensions(attributes).unwrap();
    let mut header = blank();
    header.set_size(0);
    builder.append_data(&mut header, "ping", io::empty()).unwrap();
    let made = flat(&[layer(builder.into_inner().unwrap())], &Limits::default()).unwrap();
    let mut archive = tar::Archive::new(made.as_slice());
    let mut entry = archive.entries().unwrap().next().unwrap().unwrap();
    let extensions = entry.pax_extensions().unwrap().unwrap();
    let keys: Vec<String> = extensions.map(|one| one.unwrap().key().unwrap().to_owned()).collect();
    assert_eq!(keys, ["SCHILY.xattr.security.capability", "SCHILY.xattr.user.note"]);
}

#[test]
fn times_of_a_build_become_the_newest_that_is_none() {
    let time = |content: &[u8]| -> BTreeMap<String, u64> {
        let mut archive = tar::Archive::new(content);
        let entries = archive.entries().unwrap().map(|entry| entry.unwrap());
        entries.map(|e| (e.path().unwrap().to_string_lossy().into_owned(), e.header().mtime().unwrap())).collect()
    };
    let aged = |name: &str, mtime| {
        let mut header = blank();
        header.set_size(0);
        header.set_mtime(mtime);
        raw(&mut header, name, "");
        [header.as_bytes().as_slice(), &[0; 1024]].concat()
    };
    let built = Layer { built_from: 5000, ..layer(aged("made", 6000)) };
    let made = flat(&[layer(aged("shipped", 4000)), built], &Limits::default()).unwrap();
    assert_eq!(time(&made), BTreeMap::from([("made".to_owned(), 4000), ("shipped".to_owned(), 4000)]));
    let copied = Layer { built_from: 0, ..layer(aged("copied", 10)) };
    let made = flat(&[layer(aged("shipped", 4000)), copied], &Limits::default()).unwrap();
    assert_eq!(time(&made)["copied"], 4000);
}

#[test]
fn gzip_is_read_and_xz_is_told() {
    use std::io::Write as _;
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&archive(&[File("a", "x")])).unwrap();
    assert_eq!(shown(&flat(&[layer(gzip.finish().unwrap())], &Limits::default()).unwrap())["a"], "x");
    let xz = b"\xfd7zXZ\0 and so on".to_vec();
    assert!(flat(&[layer(xz)], &Limits::default()).unwrap_err().to_string().contains("xz"));
}

proptest::proptest! {
    #[test]
    fn no_bytes_panic_as_a_layer(bytes: Vec<u8>, at in 0_usize..2048, value: u8) {
        let _ = flat(&[layer(bytes)], &Limits::default());
        let mut spoilt = archive(&[Folder("d"), File("d/a", "x"), Hard("b", "d/a"), Link("c", "d")]);
        spoilt[at] = value;
        if let Ok(made) = flat(&[layer(spoilt)], &Limits::default()) {
            shown(&made);
        }
    }
}
